// SPDX-License-Identifier: Apache-2.0
//! The exported functions: they lift arguments, call the classifier and lower its answer.
//!
//! The one instance of the classifier lives here. An answer is lent to the host, so what it points
//! into is kept until the next call replaces it; the host has copied it long before.

use crate::abi::{Error, RawError, RawList, RawNamed, RawParameter, RawResult};
use crate::classifier::Classifier;
use crate::host::{log_error, take_named, NamedTensor, Tensor};
use crate::metadata::{Metadata, RawMetadata};
use std::cell::RefCell;

/// What the last answer points into.
struct Answer {
    result: RawResult<RawList>,
    _error: Option<Error>,
    _names: Vec<String>,
    _tensors: Vec<RawNamed>,
}

struct State {
    classifier: Classifier,
    answer: Option<Box<Answer>>,
    metadata: Option<Box<Metadata>>,
}

thread_local! {
    static STATE: RefCell<State> = RefCell::new(start());
}

fn start() -> State {
    // A panic ends in a trap, which says nothing; its message goes to the log first.
    std::panic::set_hook(Box::new(|panic| log_error(&panic.to_string())));
    State {
        classifier: Classifier::new(),
        answer: None,
        metadata: None,
    }
}

fn answer(
    call: impl FnOnce(&mut Classifier) -> Result<Vec<NamedTensor>, Error>,
) -> *const RawResult<RawList> {
    STATE.with_borrow_mut(|state| {
        let answer = match call(&mut state.classifier) {
            Ok(tensors) => lower(tensors),
            Err(error) => refuse(error),
        };
        &state.answer.insert(answer).result as *const _
    })
}

fn lower(tensors: Vec<NamedTensor>) -> Box<Answer> {
    let (names, tensors): (Vec<String>, Vec<Tensor>) = tensors.into_iter().unzip();
    let raw: Vec<RawNamed> = names
        .iter()
        .zip(tensors)
        .map(|(name, tensor)| RawNamed {
            name: RawList::lend(name.as_bytes()),
            handle: tensor.into_handle(),
        })
        .collect();
    Box::new(Answer {
        result: RawResult::ok(RawList::lend(&raw)),
        _error: None,
        _names: names,
        _tensors: raw,
    })
}

fn refuse(error: Error) -> Box<Answer> {
    Box::new(Answer {
        result: RawResult::error(RawError::lend(&error)),
        _error: Some(error), // moving a String leaves its text where it is
        _names: Vec::new(),
        _tensors: Vec::new(),
    })
}

/// Frees parameters; this component has none.
unsafe fn discard_parameters(list: RawList) {
    for parameter in list.take::<RawParameter>() {
        drop(parameter.name.take_string());
        drop(parameter.value.take_string());
    }
}

#[export_name = "kedge:ai/model-component@0.1.0#metadata"]
extern "C" fn export_metadata() -> *const RawMetadata {
    STATE.with_borrow_mut(|state| {
        let metadata = Box::new(Metadata::of(state.classifier.config()));
        state.metadata.insert(metadata).raw() as *const _
    })
}

#[export_name = "kedge:ai/model-component@0.1.0#preprocess"]
unsafe extern "C" fn export_preprocess(
    raw: u32,
    parameters: usize,
    count: usize,
) -> *const RawResult<RawList> {
    discard_parameters(RawList::from_flat(parameters, count));
    let raw = Tensor::from_handle(raw);
    answer(|classifier| classifier.preprocess(raw))
}

#[export_name = "kedge:ai/model-component@0.1.0#forward"]
unsafe extern "C" fn export_forward(
    inputs: usize,
    input_count: usize,
    options: usize,
    option_count: usize,
) -> *const RawResult<RawList> {
    discard_parameters(RawList::from_flat(options, option_count));
    let inputs = take_named(RawList::from_flat(inputs, input_count));
    answer(|classifier| classifier.forward(inputs))
}

#[export_name = "kedge:ai/model-component@0.1.0#postprocess"]
unsafe extern "C" fn export_postprocess(
    outputs: usize,
    output_count: usize,
    parameters: usize,
    count: usize,
) -> *const RawResult<RawList> {
    discard_parameters(RawList::from_flat(parameters, count));
    let outputs = take_named(RawList::from_flat(outputs, output_count));
    answer(|classifier| classifier.postprocess(outputs))
}

/// `result<_, error>` has the layout of `result<list, error>` with the list left out.
#[export_name = "kedge:ai/lifecycle@0.1.0#configure"]
unsafe extern "C" fn export_configure(text: usize, length: usize) -> *const RawResult<RawList> {
    let text = RawList::from_flat(text, length).take_string();
    answer(|classifier| classifier.configure(&text).map(|()| Vec::new()))
}

#[export_name = "kedge:ai/lifecycle@0.1.0#health"]
extern "C" fn export_health() -> *const RawResult<RawList> {
    answer(|classifier| classifier.health().map(|()| Vec::new()))
}
