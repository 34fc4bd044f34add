// SPDX-License-Identifier: Apache-2.0
//! The configuration: a JSON object of the members below; anything else is refused.
//!
//! | member | value | default |
//! | --- | --- | --- |
//! | `width`, `height`, `channels` | whole numbers from 1 | required |
//! | `input`, `output` | names of the model's tensors | required |
//! | `layout` | `NCHW` or `NHWC` | `NCHW` |
//! | `scale` | number | 1/255 |
//! | `mean`, `std` | lists of numbers, one each or one per channel | `[0]`, `[1]` |
//! | `topK` | whole number from 1 | 3 |
//! | `labels` | list of strings, the first for class 0 | `[]` |
//!
//! A model input is (pixel · scale − mean) / std.

use crate::json::{self, Content, Value};

/// A side or channel count above this is a mistake, and their product fits 64 bits.
const MAX_SIZE: u32 = 65_536;

/// Which dimension of the model's input is which: batch, channels, height, width.
#[derive(Clone, Copy, PartialEq)]
pub enum Layout {
    Nchw,
    Nhwc,
}

pub struct Config {
    pub width: u32,
    pub height: u32,
    pub channels: u32,
    pub input: String,
    pub output: String,
    pub layout: Layout,
    /// Factor per channel, or one for all.
    pub factor: Vec<f32>,
    /// Offset per channel, or one for all.
    pub offset: Vec<f32>,
    pub top_k: u32,
    pub labels: Vec<String>,
}

impl Config {
    /// Reads the whole configuration; the message names the member, what it expects and what it found.
    pub fn parse(text: &str) -> Result<Self, String> {
        let document = json::parse(text).map_err(|problem| format!("configuration: {problem}"))?;
        let Content::Object(list) = document.content else {
            return Err("configuration: expected a JSON object".into());
        };
        let mut members = Members { list };
        let channels = members.size("channels")?;
        let scale = members.number("scale", 1.0 / 255.0)?;
        let mean = members.per_channel("mean", 0.0, channels)?;
        let std = members.per_channel("std", 1.0, channels)?;
        let config = Config {
            width: members.size("width")?,
            height: members.size("height")?,
            channels,
            input: members.name("input")?,
            output: members.name("output")?,
            layout: members.layout()?,
            factor: std.iter().map(|std| (scale / std) as f32).collect(),
            offset: offsets(&mean, &std),
            top_k: members.optional_size("topK")?.unwrap_or(3),
            labels: members.labels()?,
        };
        members.finish()?;
        config.finite()
    }

    fn finite(self) -> Result<Self, String> {
        let finite = self
            .factor
            .iter()
            .chain(&self.offset)
            .all(|value| value.is_finite());
        if finite {
            Ok(self)
        } else {
            Err("std: expected values that scale and mean can be divided by".into())
        }
    }
}

fn offsets(mean: &[f64], std: &[f64]) -> Vec<f32> {
    let at = |list: &[f64], channel: usize| list[if list.len() == 1 { 0 } else { channel }];
    let count = mean.len().max(std.len());
    (0..count)
        .map(|channel| (-at(mean, channel) / at(std, channel)) as f32)
        .collect()
}

/// Members not yet asked for.
struct Members {
    list: Vec<(String, Value)>,
}

impl Members {
    fn take(&mut self, member: &str) -> Option<Value> {
        let position = self.list.iter().position(|(name, _)| name == member)?;
        Some(self.list.swap_remove(position).1)
    }

    fn required(&mut self, member: &str, expected: &str) -> Result<Value, String> {
        self.take(member)
            .ok_or_else(|| format!("{member}: expected {expected}, found nothing"))
    }

    fn finish(self) -> Result<(), String> {
        match self.list.first() {
            None => Ok(()),
            Some((name, value)) => Err(format!("{name}: no such member, found {}", value.source())),
        }
    }

    fn size(&mut self, member: &str) -> Result<u32, String> {
        let value = self.required(member, SIZE)?;
        size(member, &value)
    }

    fn optional_size(&mut self, member: &str) -> Result<Option<u32>, String> {
        self.take(member)
            .map(|value| size(member, &value))
            .transpose()
    }

    fn name(&mut self, member: &str) -> Result<String, String> {
        let value = self.required(member, "the name of a tensor")?;
        match &value.content {
            Content::Text(name) if !name.is_empty() => Ok(name.clone()),
            _ => Err(unexpected(member, "the name of a tensor", &value)),
        }
    }

    fn number(&mut self, member: &str, default: f64) -> Result<f64, String> {
        match self.take(member) {
            None => Ok(default),
            Some(value) => finite(member, "a number", &value, &value),
        }
    }

    fn per_channel(
        &mut self,
        member: &str,
        default: f64,
        channels: u32,
    ) -> Result<Vec<f64>, String> {
        let Some(value) = self.take(member) else {
            return Ok(vec![default]);
        };
        let expected = format!("a list of 1 or {channels} numbers");
        match &value.content {
            Content::List(items) if items.len() == 1 || items.len() == channels as usize => items
                .iter()
                .map(|item| finite(member, &expected, item, &value))
                .collect(),
            _ => Err(unexpected(member, &expected, &value)),
        }
    }

    fn layout(&mut self) -> Result<Layout, String> {
        let Some(value) = self.take("layout") else {
            return Ok(Layout::Nchw);
        };
        match &value.content {
            Content::Text(name) if name == "NCHW" => Ok(Layout::Nchw),
            Content::Text(name) if name == "NHWC" => Ok(Layout::Nhwc),
            _ => Err(unexpected("layout", "\"NCHW\" or \"NHWC\"", &value)),
        }
    }

    fn labels(&mut self) -> Result<Vec<String>, String> {
        let Some(value) = self.take("labels") else {
            return Ok(Vec::new());
        };
        let Content::List(items) = value.content else {
            return Err(unexpected("labels", "a list of strings", &value));
        };
        let texts = items.into_iter().map(|item| match item.content {
            Content::Text(label) => Ok(label),
            _ => Err(unexpected("labels", "a list of strings", &item)),
        });
        texts.collect()
    }
}

const SIZE: &str = "a whole number from 1 to 65536";

fn size(member: &str, value: &Value) -> Result<u32, String> {
    match value.content {
        Content::Number(number)
            if number >= 1.0 && number <= f64::from(MAX_SIZE) && number.fract() == 0.0 =>
        {
            Ok(number as u32)
        }
        _ => Err(unexpected(member, SIZE, value)),
    }
}

fn finite(member: &str, expected: &str, value: &Value, shown: &Value) -> Result<f64, String> {
    match value.content {
        Content::Number(number) if number.is_finite() => Ok(number),
        _ => Err(unexpected(member, expected, shown)),
    }
}

fn unexpected(member: &str, expected: &str, value: &Value) -> String {
    format!("{member}: expected {expected}, found {}", value.source())
}
