// SPDX-License-Identifier: Apache-2.0
//! What this component says about itself, laid out as the host reads it.
//!
//! Before `configure` sizes and names are free: they are configured. Afterwards they are those of the
//! configuration, so that the host can hold the model against them before a request comes.

use crate::abi::{ElementType, RawList};
use crate::config::{Config, Layout};

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

/// What differs with the configuration.
struct Shapes {
    raw: [i64; 1],
    input_name: String,
    input: [i64; 4],
    output_name: String,
}

impl Shapes {
    fn free() -> Self {
        Shapes {
            raw: [ANY],
            input_name: String::new(),
            input: [ANY; 4],
            output_name: String::new(),
        }
    }

    fn of(config: &Config) -> Self {
        let (width, height) = (i64::from(config.width), i64::from(config.height));
        let channels = i64::from(config.channels);
        Shapes {
            raw: [width * height * channels],
            input_name: config.input.clone(),
            input: match config.layout {
                Layout::Nchw => [ANY, channels, height, width],
                Layout::Nhwc => [ANY, height, width, channels],
            },
            output_name: config.output.clone(),
        }
    }
}

/// The record, and what it points into.
pub struct Metadata {
    raw: RawMetadata,
    _shapes: Box<Shapes>,
    _specs: [Vec<RawSpec>; 3],
}

impl Metadata {
    pub fn of(config: Option<&Config>) -> Self {
        let shapes = Box::new(config.map_or_else(Shapes::free, Shapes::of));
        let inputs = vec![spec(&shapes.input_name, ElementType::Fp32, &shapes.input)];
        let outputs = vec![spec(&shapes.output_name, ElementType::Fp32, &[ANY, ANY])];
        let returns = vec![
            spec("label", ElementType::Bytes, &[ANY]),
            spec("score", ElementType::Fp32, &[ANY]),
            spec("index", ElementType::Int64, &[ANY]),
        ];
        Metadata {
            raw: RawMetadata {
                name: RawList::lend(env!("CARGO_PKG_NAME").as_bytes()),
                version: RawList::lend(env!("CARGO_PKG_VERSION").as_bytes()),
                accepts: spec("raw", ElementType::Uint8, &shapes.raw),
                model_inputs: RawList::lend(&inputs),
                model_outputs: RawList::lend(&outputs),
                returns: RawList::lend(&returns),
            },
            _shapes: shapes,
            _specs: [inputs, outputs, returns], // moving a Vec leaves its items where they are
        }
    }

    pub fn raw(&self) -> &RawMetadata {
        &self.raw
    }
}

fn spec(name: &str, element_type: ElementType, shape: &[i64]) -> RawSpec {
    RawSpec {
        name: RawList::lend(name.as_bytes()),
        element_type: element_type as u8,
        shape: RawList::lend(shape),
    }
}
