//! Splits PTX text into tokens, each with its line.

use super::ParseError;

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Token<'a> {
    /// An identifier, directive or opcode, with its dots and `::`: `ld.global.L2::128B.f32`, `%tid.x`, `.reg`.
    Word(&'a str),
    /// An integer; a minus sign is a separate token.
    Int(u64),
    /// `0fXXXXXXXX`: the bits of a single-precision constant.
    F32(u32),
    /// `0dXXXXXXXXXXXXXXXX` or a decimal fraction: the bits of a double-precision constant.
    F64(u64),
    Text(&'a str),
    Punct(u8),
}

pub(super) fn tokenize(text: &str) -> Result<Vec<(Token<'_>, u32)>, ParseError> {
    Lexer { text, at: 0, line: 1 }.run()
}

struct Lexer<'a> {
    text: &'a str,
    at: usize,
    line: u32,
}

impl<'a> Lexer<'a> {
    fn run(mut self) -> Result<Vec<(Token<'a>, u32)>, ParseError> {
        let mut tokens = Vec::with_capacity(self.text.len() / 4);
        while let Some(c) = self.peek(0) {
            let line = self.line;
            match c {
                b'\n' => {
                    self.line += 1;
                    self.at += 1;
                }
                b' ' | b'\t' | b'\r' => self.at += 1,
                b'/' if self.peek(1) == Some(b'/') => self.take_while(|c| c != b'\n'),
                b'/' if self.peek(1) == Some(b'*') => self.block_comment()?,
                b'"' => tokens.push((self.string()?, line)),
                b'0'..=b'9' => tokens.push((self.number()?, line)),
                _ if is_word_start(c) => tokens.push((self.word(), line)),
                _ if c.is_ascii() => {
                    tokens.push((Token::Punct(c), line));
                    self.at += 1;
                }
                _ => return Err(self.error("a character outside ASCII")),
            }
        }
        Ok(tokens)
    }

    fn peek(&self, ahead: usize) -> Option<u8> {
        self.text.as_bytes().get(self.at + ahead).copied()
    }

    fn take_while(&mut self, keep: impl Fn(u8) -> bool) {
        while self.peek(0).is_some_and(&keep) {
            self.at += 1;
        }
    }

    fn error(&self, message: impl Into<String>) -> ParseError {
        ParseError { line: self.line, message: message.into() }
    }

    fn block_comment(&mut self) -> Result<(), ParseError> {
        let start = self.at + 2;
        let end = self.text[start..].find("*/").ok_or_else(|| self.error("a comment without an end"))?;
        self.line += self.text[start..start + end].matches('\n').count() as u32;
        self.at = start + end + 2;
        Ok(())
    }

    fn string(&mut self) -> Result<Token<'a>, ParseError> {
        let start = self.at + 1;
        let len = self.text[start..].find(['"', '\n']).ok_or_else(|| self.error("a string without an end"))?;
        if self.text.as_bytes()[start + len] == b'\n' {
            return Err(self.error("a string without an end"));
        }
        self.at = start + len + 1;
        Ok(Token::Text(&self.text[start..start + len]))
    }

    fn word(&mut self) -> Token<'a> {
        let start = self.at;
        self.at += 1;
        loop {
            self.take_while(is_word);
            let joined = self.peek(0) == Some(b':')
                && self.peek(1) == Some(b':')
                && self.peek(2).is_some_and(|c| c.is_ascii_alphanumeric());
            if !joined {
                return Token::Word(&self.text[start..self.at]);
            }
            self.at += 2;
        }
    }

    fn number(&mut self) -> Result<Token<'a>, ParseError> {
        let start = self.at;
        self.take_while(|c| c.is_ascii_alphanumeric() || c == b'.');
        // An exponent's sign: 1.5e-3.
        let decimal = self.text[start..self.at].contains('.');
        if decimal && self.text[start..self.at].ends_with(['e', 'E']) && matches!(self.peek(0), Some(b'+' | b'-')) {
            self.at += 1;
            self.take_while(|c| c.is_ascii_digit());
        }
        let word = &self.text[start..self.at];
        let digits = word.trim_end_matches(['U', 'u']);
        let hex = |s: &str| u64::from_str_radix(s, 16).ok();
        let token = match digits.as_bytes() {
            [b'0', b'f' | b'F', ..] if digits.len() == 10 => hex(&digits[2..]).map(|v| Token::F32(v as u32)),
            [b'0', b'd' | b'D', ..] if digits.len() == 18 => hex(&digits[2..]).map(Token::F64),
            [b'0', b'x' | b'X', ..] => hex(&digits[2..]).map(Token::Int),
            [b'0', b'b' | b'B', ..] => u64::from_str_radix(&digits[2..], 2).ok().map(Token::Int),
            _ if decimal => digits.parse().ok().map(|v: f64| Token::F64(v.to_bits())),
            [b'0', _, ..] => u64::from_str_radix(&digits[1..], 8).ok().map(Token::Int),
            _ => digits.parse().ok().map(Token::Int),
        };
        token.ok_or_else(|| self.error(format!("`{word}` is not a number")))
    }
}

fn is_word_start(c: u8) -> bool {
    c.is_ascii_alphabetic() || matches!(c, b'_' | b'.' | b'%' | b'$')
}

fn is_word(c: u8) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, b'_' | b'.' | b'$' | b'%')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_and_lines() {
        let tokens = tokenize(
            "// c\nld.global.L2::128B.f32 %f1, [%rd1+-16]; /* a\nb */ $L: 0f3F800000 0x10U 017 1.5e-3 \"a b\"",
        )
        .expect("lexes");
        let words: Vec<_> = tokens.iter().map(|t| t.0).collect();
        use Token::*;
        assert_eq!(
            words,
            [
                Word("ld.global.L2::128B.f32"),
                Word("%f1"),
                Punct(b','),
                Punct(b'['),
                Word("%rd1"),
                Punct(b'+'),
                Punct(b'-'),
                Int(16),
                Punct(b']'),
                Punct(b';'),
                Word("$L"),
                Punct(b':'),
                F32(0x3f80_0000),
                Int(16),
                Int(15),
                F64(1.5e-3f64.to_bits()),
                Text("a b"),
            ]
        );
        assert_eq!((tokens[0].1, tokens[10].1), (2, 3));
    }

    #[test]
    fn errors_name_their_line() {
        for (text, line) in [("\n\"abc\n", 2), ("\n\n/* x", 3), ("/*/", 1), ("0xZZ", 1), ("\né", 2)] {
            assert_eq!(tokenize(text).expect_err(text).line, line, "{text:?}");
        }
    }
}
