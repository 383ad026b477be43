//! Properties of lexer and parser: no text makes them panic, and what is printed is read back.

use super::ast::{Operand, Statement};
use super::lexer::{Token, tokenize};
use proptest::prelude::*;

fn name() -> impl Strategy<Value = String> {
    "[a-zA-Z%$][a-zA-Z0-9_$]{0,8}"
}

/// The text of a token.
fn spell(token: &Token) -> String {
    match token {
        Token::Word(word) => (*word).to_owned(),
        Token::Int(value) => value.to_string(),
        Token::F32(bits) => format!("0f{bits:08X}"),
        Token::F64(bits) => format!("0d{bits:016x}"),
        Token::Text(text) => format!("\"{text}\""),
        Token::Punct(punct) => (*punct as char).to_string(),
    }
}

/// The text of an operand.
fn print(operand: &Operand) -> String {
    let list = |operands: &[Operand]| operands.iter().map(print).collect::<Vec<_>>().join(", ");
    match operand {
        Operand::Name(name) => (*name).to_owned(),
        Operand::Int(value) => value.to_string(),
        Operand::F32(bits) => format!("0f{bits:08x}"),
        Operand::F64(bits) => format!("0d{bits:016X}"),
        Operand::Vector(operands) => format!("{{{}}}", list(operands)),
        Operand::List(operands) => format!("({})", list(operands)),
        Operand::Address { base, offset } => match base {
            Some(base) => format!("[{base}+{offset}]"),
            None => format!("[{offset}]"),
        },
        Operand::Pair(first, second) => format!("{}|{}", print(first), print(second)),
        Operand::Not(inner) => format!("!{}", print(inner)),
        Operand::Sink => "_".to_owned(),
    }
}

/// Operands without names, whose text they would borrow.
fn operand() -> impl Strategy<Value = Operand<'static>> {
    let name = prop::sample::select(vec!["%r1", "%tid.x", "$L__BB0_2", "WARP_SZ", "x"]);
    let leaf = prop_oneof![
        name.clone().prop_map(Operand::Name),
        any::<i64>().prop_map(Operand::Int),
        any::<u32>().prop_map(Operand::F32),
        any::<u64>().prop_map(Operand::F64),
        (prop::option::of(name), any::<i32>())
            .prop_map(|(base, offset)| Operand::Address { base, offset: offset.into() }),
        Just(Operand::Sink),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Operand::Vector),
            prop::collection::vec(inner.clone(), 0..4).prop_map(Operand::List),
            inner.prop_map(|operand| Operand::Not(Box::new(operand))),
        ]
    })
}

proptest! {
    #[test]
    fn no_text_makes_the_parser_panic(text in any::<String>()) {
        let _ = super::parse(&text);
    }

    #[test]
    fn no_row_of_tokens_makes_the_parser_panic(words in prop::collection::vec(prop::sample::select(vec![
        ".version", ".target", ".entry", ".func", ".visible", ".extern", ".param", ".reg", ".shared", ".global", ".align",
        ".b32", ".u64", ".f32", ".v4", ".loc", ".file", ".section", ".pragma", ".maxntid", ".branchtargets", "k", "x", "%r", "@",
        "!", "(", ")", "{", "}", "[", "]", "<", ">", "=", ",", ";", ":", "|", "+", "-", "\"t\"", "7", "0x1F", "0f3F800000", "1.5",
        "18446744073709551615", "add.u32", "mov.b64", "bra", "call", "\n", "/*", "*/", "//",
    ]), 0..60)) {
        let _ = super::parse(&words.join(" "));
        let _ = super::parse(&format!(".entry k() {{ {} }}", words.join(" ")));
    }

    #[test]
    fn tokens_are_read_back(words in prop::collection::vec(name(), 0..5), numbers in any::<(u64, u32, u64)>(), gap in "[ \\t]{1,3}") {
        let mut tokens: Vec<Token> = words.iter().map(|word| Token::Word(word)).collect();
        tokens.extend([Token::Int(numbers.0), Token::Punct(b','), Token::F32(numbers.1), Token::F64(numbers.2), Token::Text("a b")]);
        let text = tokens.iter().map(spell).collect::<Vec<_>>().join(&gap);
        let found: Vec<Token> = tokenize(&text).unwrap().into_iter().map(|(token, _)| token).collect();
        prop_assert_eq!(found, tokens);
    }

    #[test]
    fn operands_are_read_back(first in operand(), second in operand(), negated in any::<bool>()) {
        let pair = Operand::Pair(Box::new(second.clone()), Box::new(Operand::Sink));
        let guard = if negated { "@!%p1" } else { "@%p1" };
        let text = format!(".entry k() {{ {guard} op.u32 {}, {}, {}; }}", print(&first), print(&second), print(&pair));
        let unit = super::parse(&text).unwrap();
        let [Statement::Instruction(found)] = unit.functions[0].body.as_slice() else { panic!("{text}") };
        prop_assert_eq!(found.guard, Some(("%p1", negated)));
        prop_assert_eq!(format!("{:?}", found.operands), format!("{:?}", [first, second, pair]));
    }
}

#[test]
fn deep_nesting_is_an_error() {
    for (open, close) in [("!", ""), ("{", "}"), ("(", ")")] {
        let text = format!(".entry k() {{ op {}%p{}; }}", open.repeat(100_000), close.repeat(100_000));
        assert_eq!(super::parse(&text).unwrap_err().message, "nested too deeply");
    }
    let scopes = format!(".entry k() {{ {} }}", "{".repeat(100_000));
    assert_eq!(super::parse(&scopes).unwrap_err().message, "nested too deeply");
    let values = format!(".global .u32 x[1] = {};", "{".repeat(100_000));
    assert_eq!(super::parse(&values).unwrap_err().message, "nested too deeply");
}
