//! From text to requirements: a lexer of five tokens and a parser of one rule.
//!
//! `in` and `notin` are operators only where an operator may stand, so a label
//! may be called `in`. A value may be empty (`a=` asks for an empty value).

use super::{LabelSelector, Requirement, Test};
use crate::api::validate::names::{label_key_problem, label_value_problem};

/// A piece of the text.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Word(String),
    /// One of `= == != ! < > ( ) ,`.
    Sign(&'static str),
    End,
}

/// Longer signs first, because `==` begins with `=`.
const SIGNS: [&str; 9] = ["==", "!=", "=", "!", "<", ">", "(", ")", ","];

/// Reads a whole selector; the error says what stood where.
pub(super) fn read(text: &str) -> Result<LabelSelector, String> {
    let mut parser = Parser {
        tokens: read_tokens(text),
        next: 0,
    };
    let mut requirements = Vec::new();
    if *parser.peek() == Token::End {
        return Ok(LabelSelector { requirements });
    }
    loop {
        requirements.push(parser.requirement()?);
        match parser.take() {
            Token::End => return Ok(LabelSelector { requirements }),
            Token::Sign(",") => {}
            found => {
                return Err(format!(
                    "found '{}', expected: ',' or 'end of string'",
                    found.text()
                ));
            }
        }
    }
}

fn read_tokens(text: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        if let Some(sign) = SIGNS.iter().find(|sign| rest.starts_with(**sign)) {
            tokens.push(Token::Sign(sign));
            rest = &rest[sign.len()..];
        } else {
            let end = rest
                .find(|next: char| next.is_whitespace() || "=!<>(),".contains(next))
                .unwrap_or(rest.len());
            tokens.push(Token::Word(rest[..end].to_owned()));
            rest = &rest[end..];
        }
        rest = rest.trim_start();
    }
    tokens.push(Token::End);
    tokens
}

impl Token {
    fn text(&self) -> &str {
        match self {
            Token::Word(word) => word,
            Token::Sign(sign) => sign,
            Token::End => "end of string",
        }
    }
}

struct Parser {
    tokens: Vec<Token>,
    next: usize,
}

impl Parser {
    fn peek(&self) -> &Token {
        self.tokens.get(self.next).unwrap_or(&Token::End)
    }

    fn take(&mut self) -> Token {
        let token = self.peek().clone();
        self.next += 1;
        token
    }

    fn requirement(&mut self) -> Result<Requirement, String> {
        let absent = *self.peek() == Token::Sign("!");
        if absent {
            self.take();
        }
        let key = match self.take() {
            Token::Word(key) => key,
            found => return Err(format!("found '{}', expected: identifier", found.text())),
        };
        if let Some(why) = label_key_problem(&key) {
            return Err(format!("key: Invalid value: {key:?}: {why}"));
        }
        let test = if absent {
            Test::DoesNotExist
        } else {
            self.test(&key)?
        };
        Ok(Requirement { key, test })
    }

    fn test(&mut self, key: &str) -> Result<Test, String> {
        match self.peek().clone() {
            Token::End | Token::Sign(",") => return Ok(Test::Exists),
            _ => {}
        }
        let test = match self.take() {
            Token::Sign("=" | "==") => Test::In(vec![self.exact_value()]),
            Token::Sign("!=") => Test::NotIn(vec![self.exact_value()]),
            Token::Sign(sign @ ("<" | ">")) => {
                let text = self.exact_value();
                let number = text.parse().map_err(|_| {
                    format!("values[0][{key}]: Invalid value: {text:?}: for 'Gt', 'Lt' operators, the value must be an integer")
                })?;
                if sign == "<" {
                    Test::LessThan(number)
                } else {
                    Test::GreaterThan(number)
                }
            }
            Token::Word(word) if word == "in" => Test::In(self.values()?),
            Token::Word(word) if word == "notin" => Test::NotIn(self.values()?),
            found => {
                return Err(format!(
                    "found '{}', expected: in, notin, =, ==, !=, <, >",
                    found.text()
                ));
            }
        };
        if let Test::In(values) | Test::NotIn(values) = &test {
            for (index, value) in values.iter().enumerate() {
                if let Some(why) = label_value_problem(value) {
                    return Err(format!(
                        "values[{index}][{key}]: Invalid value: {value:?}: {why}"
                    ));
                }
            }
        }
        Ok(test)
    }

    /// The word after an operator, or nothing where the requirement ends.
    fn exact_value(&mut self) -> String {
        match self.peek().clone() {
            Token::Word(word) => {
                self.take();
                word
            }
            _ => String::new(),
        }
    }

    fn values(&mut self) -> Result<Vec<String>, String> {
        match self.take() {
            Token::Sign("(") => {}
            found => return Err(format!("found '{}', expected: '('", found.text())),
        }
        let mut values = Vec::new();
        loop {
            values.push(self.exact_value());
            match self.take() {
                Token::Sign(")") => break,
                Token::Sign(",") => {}
                found => return Err(format!("found '{}', expected: ',' or ')'", found.text())),
            }
        }
        // A set, written in one order whatever the text's.
        values.sort();
        values.dedup();
        Ok(values)
    }
}
