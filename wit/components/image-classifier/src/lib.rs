// SPDX-License-Identifier: Apache-2.0
//! Image classifier: raw pixels in, labels with scores out, for any model of one image input and
//! one row of scores. World `kedge:ai/model@0.1.0`; configured with a JSON object (`config.rs`).
//!
//! Pixels and scores stay on the host: this component moves handles and reads only the few indices
//! it needs to choose labels.

mod abi;
mod classifier;
mod config;
mod exports;
mod host;
mod json;
mod metadata;
