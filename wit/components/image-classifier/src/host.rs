// SPDX-License-Identifier: Apache-2.0
//! What the host provides: tensors, models and the log, as safe types that own their handles.

use crate::abi::{ElementType, Error, RawList, RawNamed, RawResult};
use std::mem::{forget, MaybeUninit};

#[link(wasm_import_module = "kedge:ai/tensors@0.1.0")]
extern "C" {
    #[link_name = "[static]tensor.create"]
    fn tensor_create(
        shape: *const u32,
        rank: usize,
        element_type: u32,
        data: *const u8,
        length: usize,
        result: *mut RawResult<u32>,
    );
    #[link_name = "[method]tensor.shape"]
    fn tensor_shape(tensor: u32, result: *mut RawList);
    #[link_name = "[method]tensor.element-type"]
    fn tensor_element_type(tensor: u32) -> u32;
    #[link_name = "[method]tensor.read"]
    fn tensor_read(tensor: u32, result: *mut RawResult<RawList>);
    #[link_name = "[method]tensor.reshape"]
    fn tensor_reshape(tensor: u32, shape: *const u32, rank: usize, result: *mut RawResult<u32>);
    #[link_name = "[method]tensor.transpose"]
    fn tensor_transpose(tensor: u32, axes: *const u32, rank: usize, result: *mut RawResult<u32>);
    #[link_name = "[method]tensor.affine"]
    fn tensor_affine(
        tensor: u32,
        scale: *const f32,
        scales: usize,
        bias: *const f32,
        biases: usize,
        axis: u32,
        result: *mut RawResult<u32>,
    );
    #[link_name = "[method]tensor.softmax"]
    fn tensor_softmax(tensor: u32, axis: u32, result: *mut RawResult<u32>);
    #[link_name = "[method]tensor.top-k"]
    fn tensor_top_k(tensor: u32, k: u32, result: *mut RawResult<[u32; 2]>);
    #[link_name = "[resource-drop]tensor"]
    fn tensor_drop(tensor: u32);
}

#[link(wasm_import_module = "kedge:ai/inference@0.1.0")]
extern "C" {
    #[link_name = "[static]model.load"]
    fn model_load(name: *const u8, length: usize, result: *mut RawResult<u32>);
    #[link_name = "[method]model.infer"]
    fn model_infer(
        model: u32,
        inputs: *const RawNamed,
        count: usize,
        result: *mut RawResult<RawList>,
    );
    #[link_name = "[resource-drop]model"]
    fn model_drop(model: u32);
}

#[link(wasm_import_module = "kedge:ai/log@0.1.0")]
extern "C" {
    #[link_name = "write"]
    fn log_write(level: u32, message: *const u8, length: usize);
}

/// Calls an import that writes its `result<T, error>` through a pointer.
fn answer<T: Copy>(call: impl FnOnce(*mut RawResult<T>)) -> Result<T, Error> {
    let mut result = MaybeUninit::uninit();
    call(result.as_mut_ptr());
    // The host has written the whole result, or the call did not return.
    unsafe { result.assume_init().take() }
}

/// A tensor on the host; dropping it frees it there.
pub struct Tensor(u32);

impl Tensor {
    /// # Safety
    /// `handle` is an own handle that arrived from the host and is held nowhere else.
    pub unsafe fn from_handle(handle: u32) -> Self {
        Tensor(handle)
    }

    pub fn into_handle(self) -> u32 {
        let handle = self.0;
        forget(self);
        handle
    }

    pub fn create(shape: &[u32], element_type: ElementType, data: &[u8]) -> Result<Self, Error> {
        answer(|result| unsafe {
            tensor_create(
                shape.as_ptr(),
                shape.len(),
                element_type as u32,
                data.as_ptr(),
                data.len(),
                result,
            )
        })
        .map(Tensor)
    }

    pub fn shape(&self) -> Vec<u32> {
        let mut shape = MaybeUninit::uninit();
        unsafe {
            tensor_shape(self.0, shape.as_mut_ptr());
            shape.assume_init().take()
        }
    }

    pub fn is(&self, element_type: ElementType) -> bool {
        unsafe { tensor_element_type(self.0) == element_type as u32 }
    }

    pub fn read(&self) -> Result<Vec<u8>, Error> {
        answer(|result| unsafe { tensor_read(self.0, result) })
            .map(|list: RawList| unsafe { list.take() })
    }

    pub fn reshape(&self, shape: &[u32]) -> Result<Self, Error> {
        answer(|result| unsafe { tensor_reshape(self.0, shape.as_ptr(), shape.len(), result) })
            .map(Tensor)
    }

    pub fn transpose(&self, axes: &[u32]) -> Result<Self, Error> {
        answer(|result| unsafe { tensor_transpose(self.0, axes.as_ptr(), axes.len(), result) })
            .map(Tensor)
    }

    pub fn affine(&self, scale: &[f32], bias: &[f32], axis: u32) -> Result<Self, Error> {
        answer(|result| unsafe {
            tensor_affine(
                self.0,
                scale.as_ptr(),
                scale.len(),
                bias.as_ptr(),
                bias.len(),
                axis,
                result,
            )
        })
        .map(Tensor)
    }

    pub fn softmax(&self, axis: u32) -> Result<Self, Error> {
        answer(|result| unsafe { tensor_softmax(self.0, axis, result) }).map(Tensor)
    }

    /// Values and indices of the `k` largest along the last dimension.
    pub fn top_k(&self, k: u32) -> Result<(Self, Self), Error> {
        answer(|result| unsafe { tensor_top_k(self.0, k, result) })
            .map(|[values, indices]| (Tensor(values), Tensor(indices)))
    }
}

impl Drop for Tensor {
    fn drop(&mut self) {
        unsafe { tensor_drop(self.0) }
    }
}

/// A tensor under the name that a model, or the caller, knows it by.
pub type NamedTensor = (String, Tensor);

/// A model that the signed order grants.
pub struct Model(u32);

impl Model {
    pub fn load(name: &str) -> Result<Self, Error> {
        answer(|result| unsafe { model_load(name.as_ptr(), name.len(), result) }).map(Model)
    }

    pub fn infer(&self, inputs: Vec<NamedTensor>) -> Result<Vec<NamedTensor>, Error> {
        let (names, tensors): (Vec<String>, Vec<Tensor>) = inputs.into_iter().unzip();
        let raw: Vec<RawNamed> = names
            .iter()
            .zip(tensors)
            .map(|(name, tensor)| RawNamed {
                name: RawList::lend(name.as_bytes()),
                handle: tensor.into_handle(),
            })
            .collect();
        answer(|result| unsafe { model_infer(self.0, raw.as_ptr(), raw.len(), result) })
            .map(|list: RawList| unsafe { take_named(list) })
    }
}

impl Drop for Model {
    fn drop(&mut self) {
        unsafe { model_drop(self.0) }
    }
}

/// # Safety
/// `list` is a `list<named-tensor>` that the host wrote and nobody else takes.
pub unsafe fn take_named(list: RawList) -> Vec<NamedTensor> {
    list.take::<RawNamed>()
        .into_iter()
        .map(|raw| (raw.name.take_string(), Tensor::from_handle(raw.handle)))
        .collect()
}

/// Writes a line of level `error`.
pub fn log_error(message: &str) {
    unsafe { log_write(4, message.as_ptr(), message.len()) }
}
