// SPDX-License-Identifier: Apache-2.0
//! What this component says about itself: constants, laid out as the host reads them.

use crate::abi::{ElementType, RawList};
use std::cell::OnceCell;

#[repr(C)]
struct RawSpec {
    name: RawList,
    element_type: u8,
    shape: RawList,
}

#[repr(C)]
pub struct RawMetadata {
    name: RawList,
    version: RawList,
    accepts: RawSpec,
    model_inputs: RawList,
    model_outputs: RawList,
    returns: RawList,
}

/// Any size.
const ANY: i64 = -1;

/// An empty name: any name; which tensor is meant is configured.
const UNNAMED: &str = "";

fn spec(name: &'static str, element_type: ElementType, shape: &'static [i64]) -> RawSpec {
    RawSpec {
        name: RawList::lend(name.as_bytes()),
        element_type: element_type as u8,
        shape: RawList::lend(shape),
    }
}

fn specs<const N: usize>(specs: [RawSpec; N]) -> RawList {
    RawList::lend(Vec::leak(specs.into()))
}

fn build() -> RawMetadata {
    RawMetadata {
        name: RawList::lend(env!("CARGO_PKG_NAME").as_bytes()),
        version: RawList::lend(env!("CARGO_PKG_VERSION").as_bytes()),
        accepts: spec("raw", ElementType::Uint8, &[ANY]),
        model_inputs: specs([spec(UNNAMED, ElementType::Fp32, &[ANY, ANY, ANY, ANY])]),
        model_outputs: specs([spec(UNNAMED, ElementType::Fp32, &[ANY, ANY])]),
        returns: specs([
            spec("label", ElementType::Bytes, &[ANY]),
            spec("score", ElementType::Fp32, &[ANY]),
            spec("index", ElementType::Int64, &[ANY]),
        ]),
    }
}

/// Built at the first call and kept for the life of the instance.
pub fn lend() -> *const RawMetadata {
    thread_local! {
        static METADATA: OnceCell<RawMetadata> = const { OnceCell::new() };
    }
    METADATA.with(|cell| cell.get_or_init(build) as *const _)
}
