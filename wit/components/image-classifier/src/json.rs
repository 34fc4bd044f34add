// SPDX-License-Identifier: Apache-2.0
//! A strict JSON reader (RFC 8259) for configuration: no duplicates, no trailing text, bounded depth.
//!
//! Each value keeps the text it came from, so that an error can show what was found.

/// Deeper nesting is refused, which bounds the stack.
const MAX_DEPTH: usize = 8;

/// Text of a value shown in errors.
const MAX_SHOWN: usize = 60;

pub enum Content {
    Null,
    Bool,
    Number(f64),
    Text(String),
    List(Vec<Value>),
    Object(Vec<(String, Value)>),
}

pub struct Value {
    pub content: Content,
    source: String,
}

impl Value {
    /// The value as it was written, cut for messages.
    pub fn source(&self) -> &str {
        &self.source
    }
}

/// Parses one document; the message says at which byte it stopped making sense.
pub fn parse(text: &str) -> Result<Value, String> {
    let mut reader = Reader { text, at: 0 };
    let value = reader.value(0)?;
    reader.space();
    match reader.peek() {
        None => Ok(value),
        Some(_) => Err(reader.expected("the end")),
    }
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl Reader<'_> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn take(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        if found {
            self.at += 1;
        }
        found
    }

    fn expected(&self, what: &str) -> String {
        let found = self
            .text
            .get(self.at..)
            .and_then(|rest| rest.chars().next());
        match found {
            Some(character) => format!("byte {}: expected {what}, found {character:?}", self.at),
            None => format!("byte {}: expected {what}, found the end", self.at),
        }
    }

    fn value(&mut self, depth: usize) -> Result<Value, String> {
        if depth > MAX_DEPTH {
            return Err(format!(
                "byte {}: expected at most {MAX_DEPTH} levels",
                self.at
            ));
        }
        self.space();
        let start = self.at;
        let content = match self.peek() {
            Some(b'{') => self.object(depth)?,
            Some(b'[') => self.list(depth)?,
            Some(b'"') => Content::Text(self.text()?),
            Some(b'-' | b'0'..=b'9') => Content::Number(self.number()?),
            _ => self.word()?,
        };
        Ok(Value {
            content,
            source: shown(&self.text[start..self.at]),
        })
    }

    fn word(&mut self) -> Result<Content, String> {
        for (word, content) in [
            ("true", Content::Bool),
            ("false", Content::Bool),
            ("null", Content::Null),
        ] {
            if self.text.as_bytes()[self.at..].starts_with(word.as_bytes()) {
                self.at += word.len();
                return Ok(content);
            }
        }
        Err(self.expected("a value"))
    }

    fn object(&mut self, depth: usize) -> Result<Content, String> {
        self.at += 1;
        let mut members: Vec<(String, Value)> = Vec::new();
        self.space();
        if self.take(b'}') {
            return Ok(Content::Object(members));
        }
        loop {
            self.space();
            if self.peek() != Some(b'"') {
                return Err(self.expected("a member's name"));
            }
            let name = self.text()?;
            if members.iter().any(|(known, _)| *known == name) {
                return Err(format!("byte {}: member {name:?} appears twice", self.at));
            }
            self.space();
            if !self.take(b':') {
                return Err(self.expected("':'"));
            }
            members.push((name, self.value(depth + 1)?));
            self.space();
            if self.take(b'}') {
                return Ok(Content::Object(members));
            }
            if !self.take(b',') {
                return Err(self.expected("',' or '}'"));
            }
        }
    }

    fn list(&mut self, depth: usize) -> Result<Content, String> {
        self.at += 1;
        let mut items = Vec::new();
        self.space();
        if self.take(b']') {
            return Ok(Content::List(items));
        }
        loop {
            items.push(self.value(depth + 1)?);
            self.space();
            if self.take(b']') {
                return Ok(Content::List(items));
            }
            if !self.take(b',') {
                return Err(self.expected("',' or ']'"));
            }
        }
    }

    fn digits(&mut self) -> Result<(), String> {
        if !matches!(self.peek(), Some(b'0'..=b'9')) {
            return Err(self.expected("a digit"));
        }
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        Ok(())
    }

    fn number(&mut self) -> Result<f64, String> {
        let start = self.at;
        self.take(b'-');
        if !self.take(b'0') {
            self.digits()?;
        }
        if self.take(b'.') {
            self.digits()?;
        }
        if self.take(b'e') || self.take(b'E') {
            let _signed = self.take(b'+') || self.take(b'-');
            self.digits()?;
        }
        let source = &self.text[start..self.at];
        source
            .parse()
            .map_err(|_| format!("byte {start}: expected a number, found {source}"))
    }

    /// A string; the reader stands at its opening quote.
    fn text(&mut self) -> Result<String, String> {
        self.at += 1;
        let mut text = String::new();
        loop {
            let rest = &self.text[self.at..];
            let plain = rest
                .find(|c: char| c == '"' || c == '\\' || c < ' ')
                .ok_or_else(|| format!("byte {}: expected '\"', found the end", self.text.len()))?;
            text.push_str(&rest[..plain]);
            self.at += plain;
            if self.take(b'"') {
                return Ok(text);
            }
            if !self.take(b'\\') {
                return Err(self.expected("no control character"));
            }
            text.push(self.escape()?);
        }
    }

    fn escape(&mut self) -> Result<char, String> {
        let character = match self.peek() {
            Some(plain @ (b'"' | b'\\' | b'/')) => plain as char,
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => {
                self.at += 1;
                return self.code_point();
            }
            _ => return Err(self.expected("an escape")),
        };
        self.at += 1;
        Ok(character)
    }

    fn code_point(&mut self) -> Result<char, String> {
        let start = self.at;
        let first = self.code_unit()?;
        let code = if (0xd800..0xdc00).contains(&first) && self.take(b'\\') && self.take(b'u') {
            let second = self.code_unit()?;
            let low = second.checked_sub(0xdc00).filter(|low| *low < 0x400);
            low.map_or(first, |low| 0x10000 + ((first - 0xd800) << 10) + low)
        } else {
            first
        };
        char::from_u32(code).ok_or_else(|| format!("byte {start}: expected a pair of surrogates"))
    }

    fn code_unit(&mut self) -> Result<u32, String> {
        let digits = self.text.get(self.at..self.at + 4);
        let hexadecimal = digits.filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit()));
        let unit = hexadecimal.and_then(|digits| u32::from_str_radix(digits, 16).ok());
        self.at += if unit.is_some() { 4 } else { 0 };
        unit.ok_or_else(|| self.expected("four hexadecimal digits"))
    }
}

fn shown(source: &str) -> String {
    match source.char_indices().nth(MAX_SHOWN) {
        Some((end, _)) => format!("{}…", &source[..end]),
        None => source.to_string(),
    }
}
