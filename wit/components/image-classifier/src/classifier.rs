// SPDX-License-Identifier: Apache-2.0
//! What the component does with one request, in terms of host tensors.

use crate::abi::{ElementType, Error};
use crate::config::{Config, Layout};
use crate::host::{Model, NamedTensor, Tensor};

/// The grant under which the workload's own model is found.
const MODEL: &str = "default";

pub struct Classifier {
    config: Option<Config>,
    model: Option<Model>,
}

impl Classifier {
    pub fn new() -> Self {
        Classifier {
            config: None,
            model: None,
        }
    }

    /// Takes a configuration over, or refuses it and keeps the one before.
    pub fn configure(&mut self, text: &str) -> Result<(), Error> {
        self.config = Some(Config::parse(text).map_err(Error::InvalidArgument)?);
        Ok(())
    }

    pub fn config(&self) -> Option<&Config> {
        self.config.as_ref()
    }

    pub fn health(&self) -> Result<(), Error> {
        self.configured().map(|_| ())
    }

    fn configured(&self) -> Result<&Config, Error> {
        self.config
            .as_ref()
            .ok_or_else(|| Error::Internal("not configured".into()))
    }

    /// Pixels, row by row with channels innermost, to the model's input.
    pub fn preprocess(&self, raw: Tensor) -> Result<Vec<NamedTensor>, Error> {
        let config = self.configured()?;
        check_pixels(config, &raw)?;
        let pixels = raw.reshape(&[1, config.height, config.width, config.channels])?;
        let (image, channel_axis) = match config.layout {
            Layout::Nhwc => (pixels, 3),
            Layout::Nchw => (pixels.transpose(&[0, 3, 1, 2])?, 1),
        };
        let input = image.affine(&config.factor, &config.offset, channel_axis)?;
        Ok(vec![(config.input.clone(), input)])
    }

    pub fn forward(&mut self, inputs: Vec<NamedTensor>) -> Result<Vec<NamedTensor>, Error> {
        let model = match self.model.take() {
            Some(model) => model,
            None => Model::load(MODEL)?,
        };
        self.model.insert(model).infer(inputs)
    }

    /// Scores to the best labels, best first.
    pub fn postprocess(&self, outputs: Vec<NamedTensor>) -> Result<Vec<NamedTensor>, Error> {
        let config = self.configured()?;
        let scores = find(&config.output, &outputs)?;
        let classes = classes(&config.output, scores)?;
        let k = config.top_k.min(classes);
        let (score, index) = scores.reshape(&[classes])?.softmax(0)?.top_k(k)?;
        let label = labels(config, &index.read()?)?;
        Ok(vec![
            ("label".into(), label),
            ("score".into(), score),
            ("index".into(), index),
        ])
    }
}

fn check_pixels(config: &Config, raw: &Tensor) -> Result<(), Error> {
    if !raw.is(ElementType::Uint8) {
        return Err(Error::InvalidArgument(
            "raw: expected elements of type uint8".into(),
        ));
    }
    let expected = u64::from(config.height) * u64::from(config.width) * u64::from(config.channels);
    let found = count(raw);
    if found == expected {
        return Ok(());
    }
    Err(Error::InvalidArgument(format!(
        "raw: expected {expected} bytes (height {} × width {} × channels {}), found {found}",
        config.height, config.width, config.channels
    )))
}

fn count(tensor: &Tensor) -> u64 {
    tensor.shape().into_iter().map(u64::from).product()
}

fn find<'a>(name: &str, outputs: &'a [NamedTensor]) -> Result<&'a Tensor, Error> {
    if let Some((_, tensor)) = outputs.iter().find(|(found, _)| found == name) {
        return Ok(tensor);
    }
    let names: Vec<&str> = outputs.iter().map(|(name, _)| name.as_str()).collect();
    let found = names.join(", ");
    Err(Error::InvalidArgument(format!(
        "outputs: expected {name}, found {found}"
    )))
}

/// The number of classes: the last dimension, of exactly one row.
fn classes(name: &str, scores: &Tensor) -> Result<u32, Error> {
    let shape = scores.shape();
    match shape.split_last() {
        Some((&classes, rows)) if classes > 0 && rows.iter().all(|&rows| rows == 1) => Ok(classes),
        _ => Err(Error::InvalidArgument(format!(
            "{name}: expected one row of scores, found {shape:?}"
        ))),
    }
}

/// Labels of int64 class indices, as a `bytes` tensor: each with its length before it.
fn labels(config: &Config, indices: &[u8]) -> Result<Tensor, Error> {
    let mut data = Vec::new();
    let mut count = 0;
    for index in indices.as_chunks::<8>().0 {
        let class = i64::from_le_bytes(*index);
        let known = usize::try_from(class)
            .ok()
            .and_then(|class| config.labels.get(class));
        let label = known.cloned().unwrap_or_else(|| format!("class {class}"));
        data.extend_from_slice(&(label.len() as u32).to_le_bytes());
        data.extend_from_slice(label.as_bytes());
        count += 1;
    }
    Tensor::create(&[count], ElementType::Bytes, &data)
}
