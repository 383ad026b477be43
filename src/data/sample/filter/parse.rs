//! From the text of a filter to its expression.

use super::{Comparison, Expression, FilterError, Literal, Number, Operand};

/// Parentheses and `not` may be nested so deep.
const MAX_DEPTH: usize = 64;

type Result<T> = std::result::Result<T, FilterError>;

#[derive(Clone, Debug, PartialEq)]
enum Token {
    /// A name or a word of the language.
    Word(String),
    /// A name between backticks.
    Name(String),
    Number(Number),
    Text(String),
    Comparison(Comparison),
    /// One of `(`, `)`, `,` and `.`.
    Sign(char),
    End,
}

impl Token {
    fn is(&self, word: &str) -> bool {
        matches!(self, Self::Word(found) if found.eq_ignore_ascii_case(word))
    }

    fn is_reserved(&self) -> bool {
        ["and", "or", "not", "in", "is", "null"].iter().any(|word| self.is(word))
    }
}

/// The expression, and the fields in it.
pub(super) fn parse(text: &str) -> Result<(Expression, Vec<Vec<String>>)> {
    let mut parser = Parser { tokens: tokens(text)?, at: 0, fields: Vec::new(), depth: 0 };
    let expression = parser.any()?;
    match parser.peek() {
        Token::End => Ok((expression, parser.fields)),
        _ => parser.expected("`and`, `or` or the end"),
    }
}

/// The tokens with their columns; the last is [`Token::End`].
fn tokens(text: &str) -> Result<Vec<(usize, Token)>> {
    let letters: Vec<char> = text.chars().collect();
    let (mut found, mut at) = (Vec::new(), 0);
    while let Some(&letter) = letters.get(at) {
        let column = at + 1;
        let next = letters.get(at + 1).copied();
        let wrong = |problem: String| Err(FilterError { column, problem });
        let mut sign = |length: usize, token: Token| {
            found.push((column, token));
            at += length;
        };
        match (letter, next) {
            (space, _) if space.is_whitespace() => at += 1,
            ('(' | ')' | ',' | '.', _) if !(letter == '.' && next.is_some_and(|next| next.is_ascii_digit())) => {
                sign(1, Token::Sign(letter));
            }
            ('=', Some('=')) => sign(2, Token::Comparison(Comparison::Equal)),
            ('=', _) => sign(1, Token::Comparison(Comparison::Equal)),
            ('!', Some('=')) | ('<', Some('>')) => sign(2, Token::Comparison(Comparison::NotEqual)),
            ('<', Some('=')) => sign(2, Token::Comparison(Comparison::LessOrEqual)),
            ('<', _) => sign(1, Token::Comparison(Comparison::Less)),
            ('>', Some('=')) => sign(2, Token::Comparison(Comparison::GreaterOrEqual)),
            ('>', _) => sign(1, Token::Comparison(Comparison::Greater)),
            ('\'' | '"' | '`', _) => {
                let (quoted, end) = quoted(&letters, at)?;
                found.push((column, if letter == '`' { Token::Name(quoted) } else { Token::Text(quoted) }));
                at = end;
            }
            (first, _) if first.is_ascii_digit() || "+-.".contains(first) => {
                let (number, end) = number(&letters, at);
                let Ok(value) = number.parse::<Number>() else { return wrong(format!("`{number}` is not a number")) };
                found.push((column, Token::Number(value)));
                at = end;
            }
            (first, _) if first.is_alphabetic() || first == '_' => {
                let is_in = |letter: &char| letter.is_alphanumeric() || "_-/".contains(*letter);
                let length = letters[at..].iter().take_while(|letter| is_in(letter)).count();
                found.push((column, Token::Word(letters[at..at + length].iter().collect())));
                at += length;
            }
            ('&' | '|', _) => return wrong("write `and` and `or` as words".to_owned()),
            (other, _) => return wrong(format!("`{other}` cannot stand here; a text needs quotes")),
        }
    }
    found.push((letters.len() + 1, Token::End));
    Ok(found)
}

/// What stands between quotes of the kind at `start`, and where it ends. A doubled quote is one of the text.
fn quoted(letters: &[char], start: usize) -> Result<(String, usize)> {
    let (quote, mut text, mut at) = (letters[start], String::new(), start + 1);
    while let Some(&letter) = letters.get(at) {
        at += 1;
        if letter == quote {
            if letters.get(at) != Some(&quote) {
                return Ok((text, at));
            }
            at += 1;
        }
        text.push(letter);
    }
    Err(FilterError { column: start + 1, problem: format!("the quote {quote} is not closed") })
}

/// The letters of the number at `start`, and where it ends: also those that make it wrong, as in `1.2.3` and `20px`.
fn number(letters: &[char], start: usize) -> (String, usize) {
    let mut end = start + 1;
    while let Some(&letter) = letters.get(end) {
        let is_sign = "+-".contains(letter) && "eE".contains(letters[end - 1]);
        if !(letter.is_alphanumeric() || letter == '.' || letter == '_' || is_sign) {
            break;
        }
        end += 1;
    }
    (letters[start..end].iter().collect(), end)
}

struct Parser {
    tokens: Vec<(usize, Token)>,
    at: usize,
    fields: Vec<Vec<String>>,
    depth: usize,
}

impl Parser {
    fn peek(&self) -> &Token {
        self.tokens.get(self.at).map_or(&Token::End, |(_, token)| token)
    }

    /// Whether the next token is this word, which is then taken.
    fn takes(&mut self, word: &str) -> bool {
        let is = self.peek().is(word);
        self.at += usize::from(is);
        is
    }

    fn takes_sign(&mut self, sign: char) -> bool {
        let is = *self.peek() == Token::Sign(sign);
        self.at += usize::from(is);
        is
    }

    fn wrong<T>(&self, problem: String) -> Result<T> {
        Err(FilterError { column: self.tokens.get(self.at).map_or(1, |(column, _)| *column), problem })
    }

    /// An error about the next token.
    fn expected<T>(&self, what: &str) -> Result<T> {
        let found = match self.peek() {
            Token::Word(word) => format!("`{word}`"),
            Token::Name(name) => format!("the field `{name}`"),
            Token::Number(number) => number.to_string(),
            Token::Text(text) => format!("{text:?}"),
            Token::Comparison(_) => "a comparison".to_owned(),
            Token::Sign(sign) => format!("`{sign}`"),
            Token::End => "the end".to_owned(),
        };
        self.wrong(format!("expected {what}, and found {found}"))
    }

    fn any(&mut self) -> Result<Expression> {
        let mut parts = vec![self.all()?];
        while self.takes("or") {
            parts.push(self.all()?);
        }
        Ok(if parts.len() == 1 { parts.remove(0) } else { Expression::Any(parts) })
    }

    fn all(&mut self) -> Result<Expression> {
        let mut parts = vec![self.one()?];
        while self.takes("and") {
            parts.push(self.one()?);
        }
        Ok(if parts.len() == 1 { parts.remove(0) } else { Expression::All(parts) })
    }

    fn one(&mut self) -> Result<Expression> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return self.wrong(format!("it is nested more than {MAX_DEPTH} deep"));
        }
        let found = if self.takes("not") {
            Expression::Not(Box::new(self.one()?))
        } else if self.takes_sign('(') {
            let inner = self.any()?;
            if !self.takes_sign(')') {
                return self.expected("`and`, `or` or `)`");
            }
            inner
        } else {
            let operand = self.operand()?;
            self.test(operand)?
        };
        self.depth -= 1;
        Ok(found)
    }

    fn test(&mut self, left: Operand) -> Result<Expression> {
        if let Token::Comparison(comparison) = *self.peek() {
            self.at += 1;
            return Ok(Expression::Compare(left, comparison, self.operand()?));
        }
        let negate = |negated: bool, found| if negated { Expression::Not(Box::new(found)) } else { found };
        if self.takes("is") {
            let negated = self.takes("not");
            return match self.takes("null") {
                true => Ok(negate(negated, Expression::IsNull(left))),
                false => self.expected("`null`"),
            };
        }
        let negated = self.takes("not");
        if !self.takes("in") {
            return self.expected(if negated { "`in`" } else { "a comparison, `in` or `is null`" });
        }
        if !self.takes_sign('(') {
            return self.expected("`(` and a list, as in ('a', 'b')");
        }
        let mut list = vec![self.literal()?];
        while self.takes_sign(',') {
            list.push(self.literal()?);
        }
        match self.takes_sign(')') {
            true => Ok(negate(negated, Expression::In(left, list))),
            false => self.expected("`,` or `)`"),
        }
    }

    fn literal(&mut self) -> Result<Literal> {
        let found = match self.peek() {
            Token::Number(number) => Literal::Number(*number),
            Token::Text(text) => Literal::Text(text.clone()),
            word if word.is("true") => Literal::Bool(true),
            word if word.is("false") => Literal::Bool(false),
            _ => return self.expected("a number, a text in quotes, true or false"),
        };
        self.at += 1;
        Ok(found)
    }

    fn operand(&mut self) -> Result<Operand> {
        if self.peek().is("null") {
            return self.wrong("nothing is equal to null; write `is null` or `is not null`".to_owned());
        }
        let is_field = matches!(self.peek(), Token::Word(_) | Token::Name(_));
        if !is_field || self.peek().is("true") || self.peek().is("false") {
            return match self.peek() {
                Token::Number(_) | Token::Text(_) | Token::Word(_) => self.literal().map(Operand::Literal),
                _ => self.expected("a field or a value"),
            };
        }
        let mut names = vec![self.name()?];
        while self.takes_sign('.') {
            names.push(self.name()?);
        }
        let known = self.fields.iter().position(|field| *field == names);
        Ok(Operand::Field(known.unwrap_or_else(|| {
            self.fields.push(names);
            self.fields.len() - 1
        })))
    }

    fn name(&mut self) -> Result<String> {
        let name = match self.peek() {
            word if word.is_reserved() => return self.expected("a field"),
            Token::Word(name) | Token::Name(name) => name.clone(),
            _ => return self.expected("the name of a field"),
        };
        self.at += 1;
        Ok(name)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Filter;

    #[test]
    fn mistakes_are_named_with_their_column() {
        for (text, words) in [
            ("", "column 1: expected a field or a value, and found the end"),
            ("width", "column 6: expected a comparison, `in` or `is null`, and found the end"),
            ("width >= ", "column 10: expected a field or a value, and found the end"),
            ("width >= 200 height", "column 14: expected `and`, `or` or the end, and found `height`"),
            ("width => 3", "column 8: expected a field or a value, and found a comparison"),
            ("(width > 1", "column 11: expected `and`, `or` or `)`, and found the end"),
            ("width > 20px", "column 9: `20px` is not a number"),
            ("lang = 'en", "column 8: the quote ' is not closed"),
            ("ä > 1 && b > 2", "column 7: write `and` and `or` as words"),
            ("lang = $x", "column 8: `$` cannot stand here"),
            ("lang in 'en'", "column 9: expected `(` and a list"),
            ("lang in ('en' 'de')", "column 15: expected `,` or `)`, and found \"de\""),
            ("lang in ()", "column 10: expected a number, a text in quotes"),
            ("lang in (en)", "column 10: expected a number, a text in quotes"),
            ("lang = null", "column 8: nothing is equal to null; write `is null`"),
            ("lang is 3", "column 9: expected `null`"),
            ("lang not 3", "column 10: expected `in`"),
            ("a. > 1", "column 4: expected the name of a field"),
            ("and > 1", "column 1: expected a field, and found `and`"),
        ] {
            let error = text.parse::<Filter>().unwrap_err().to_string();
            assert!(error.contains(words), "{text}: {error}");
        }
        let deep = |depth: usize| format!("{}a = 1{}", "(".repeat(depth), ")".repeat(depth)).parse::<Filter>();
        assert!(deep(63).is_ok() && deep(64).unwrap_err().to_string().contains("nested more than 64"));
        assert!(format!("{}a = 1", "not ".repeat(100_000)).parse::<Filter>().is_err());
    }

    #[test]
    fn a_filter_keeps_its_text_and_each_field_once() {
        let one: Filter = " width >=  2\n and a.b<3 or width=1".parse().unwrap();
        assert_eq!(one.to_string(), "width >=  2\n and a.b<3 or width=1");
        assert_eq!(one.fields().collect::<Vec<_>>(), ["width", "a.b"]);
    }
}
