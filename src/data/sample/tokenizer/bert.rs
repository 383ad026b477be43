//! BERT's `vocab.txt`. Whether it is a cased one has to be guessed from its tokens.

use tokenizers::Tokenizer;
use tokenizers::models::wordpiece::WordPiece;
use tokenizers::normalizers::BertNormalizer;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use unicode_normalization::UnicodeNormalization;
use unicode_properties::{GeneralCategory, UnicodeGeneralCategory};

use crate::data::text;

/// Reads a `vocab.txt`: one WordPiece per line, whose number is that of its line, from 0. Also says why text is
/// lower-cased or not.
pub(super) fn read(vocab: &str, lower_case: Option<bool>) -> tokenizers::Result<(Tokenizer, String)> {
    // The crate's own reader trims tokens, which leaves nothing of those that are white space.
    let mut numbers = WordPiece::read_bytes(&[])?;
    let mut evidence = Evidence::default();
    for (number, line) in text::lines(vocab).enumerate() {
        let token = line.trim_end_matches([' ', '\t']);
        // A blank line counts, but is not a token.
        if !token.is_empty() {
            evidence.add(token);
            numbers.insert(token.to_owned(), number as u32);
        }
    }
    let model = WordPiece::builder().vocab(numbers).build()?;
    let mut tokenizer = Tokenizer::new(model);
    let lower = lower_case.unwrap_or(!evidence.is_cased());
    // BERT strips accents if it lower-cases. Vocabularies of some languages kept the accents.
    let strip_accents = (lower && evidence.is_accented()).then_some(false);
    tokenizer.with_normalizer(Some(BertNormalizer::new(true, true, strip_accents, lower)));
    tokenizer.with_pre_tokenizer(Some(BertPreTokenizer));
    match tokenizer.token_to_id("[UNK]") {
        Some(_) => Ok((tokenizer, evidence.reason(lower, lower_case.is_some()))),
        None => Err("no line is [UNK]".into()),
    }
}

/// What the tokens say about the text that the vocabulary was built from.
#[derive(Debug, Default, PartialEq)]
struct Evidence {
    /// Tokens that are neither special nor unused.
    words: usize,
    /// Words that cannot occur in lower-cased text.
    capitals: usize,
    /// Words that cannot occur in text without accents.
    accents: usize,
}

impl Evidence {
    fn add(&mut self, token: &str) {
        let enclosed = |open, close| token.len() > 2 && token.starts_with(open) && token.ends_with(close);
        // [CLS], [unused0], <s> and other tasks' tokens.
        if enclosed('[', ']') || enclosed('<', '>') {
            return;
        }
        let word = token.strip_prefix("##").filter(|word| !word.is_empty()).unwrap_or(token);
        self.words += 1;
        self.capitals += usize::from(word.chars().any(is_capital));
        if !word.is_ascii() {
            let no_mark = |letter: &char| letter.general_category() != GeneralCategory::NonspacingMark;
            let bare: String = word.nfd().filter(no_mark).collect();
            // A mark alone, such as an emoji's variation selector, is not an accent.
            self.accents += usize::from(!bare.is_empty() && bare != word);
        }
    }

    /// More than 1 % of the words have capitals. In a vocabulary of cased text it is a third; one of lower-cased text
    /// may have a few that were added by hand.
    fn is_cased(&self) -> bool {
        self.capitals * 100 > self.words
    }

    /// More than 3 % of the words have accents. In German, French, Korean and so on it is a tenth or more.
    fn is_accented(&self) -> bool {
        self.accents * 100 > 3 * self.words
    }

    fn reason(&self, lower: bool, asked: bool) -> String {
        match (lower, self.capitals) {
            (false, _) if asked => "as --lower-case says".to_owned(),
            (true, 0) if asked => "as --lower-case says".to_owned(),
            (true, 0) => "none of its tokens has a capital".to_owned(),
            (true, few) => format!("{few} of its tokens have capitals and cannot occur; --lower-case no keeps case"),
            (false, many) => format!("{many} of its {} tokens have capitals", self.words),
        }
    }
}

/// A letter that lower-casing changes. Symbols such as `ℝ` are upper case in Unicode, but lower-casing keeps them;
/// Roman numerals and circled letters are numbers and symbols.
fn is_capital(letter: char) -> bool {
    use GeneralCategory::{TitlecaseLetter, UppercaseLetter};
    matches!(letter.general_category(), UppercaseLetter | TitlecaseLetter) && !letter.to_lowercase().eq([letter])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn evidence(tokens: &[&str]) -> Evidence {
        let mut evidence = Evidence::default();
        tokens.iter().for_each(|token| evidence.add(token));
        evidence
    }

    #[test]
    fn symbols_and_special_tokens_are_not_capitals() {
        let tokens =
            ["[PAD]", "[UNK]", "[unused0]", "<S>", "</S>", "[ENT]", "ℝ", "##ℝ", "Ⅱ", "ℂ", "𝐀", "Ⓐ", "[", "##", "<"];
        assert_eq!(evidence(&tokens), Evidence { words: 9, capitals: 0, accents: 0 });
        let cased = ["Paris", "##A", "É", "ǅ", "Ж", "Σ"];
        assert_eq!(evidence(&cased), Evidence { words: 6, capitals: 6, accents: 1 });
        assert_eq!(
            evidence(&["café", "が", "한", "naïve", "##ü", "ß"]),
            Evidence { words: 6, capitals: 0, accents: 5 }
        );
    }

    fn lower_and_strip(tokens: &[&str], asked: Option<bool>) -> (bool, bool) {
        let vocab = format!("[PAD]\n[UNK]\n{}\n", tokens.join("\n"));
        let (tokenizer, _) = read(&vocab, asked).unwrap();
        let Some(tokenizers::NormalizerWrapper::BertNormalizer(normalizer)) = tokenizer.get_normalizer() else {
            panic!("not BERT's")
        };
        (normalizer.lowercase, normalizer.strip_accents.unwrap_or(normalizer.lowercase))
    }

    #[test]
    fn case_is_judged_by_how_many_tokens_have_capitals() {
        let words: Vec<String> = (0..200).map(|number| format!("word{number}")).collect();
        let with = |more: &[&'static str]| -> Vec<&str> {
            words.iter().map(String::as_str).chain(more.iter().copied()).collect()
        };
        assert_eq!(lower_and_strip(&with(&[]), None), (true, true));
        assert_eq!(lower_and_strip(&with(&["ℝ", "##ℝ", "Ⅱ"]), None), (true, true));
        // A token or two that were added to an uncased vocabulary.
        assert_eq!(lower_and_strip(&with(&["COVID", "café"]), None), (true, true));
        assert_eq!(lower_and_strip(&with(&["Paris", "London", "##A"]), None), (false, false));
        // German and Spanish vocabularies are lower-cased and keep their accents.
        let german = ["für", "über", "größe", "schön", "mädchen", "##ä", "##ö", "##ü"];
        assert_eq!(lower_and_strip(&with(&german), None), (true, false));
        assert_eq!(lower_and_strip(&with(&["Paris", "London", "##A"]), Some(true)), (true, true));
        assert_eq!(lower_and_strip(&with(&[]), Some(false)), (false, false));
    }

    #[test]
    fn lines_keep_their_numbers_whatever_the_line_ending() {
        for vocab in
            ["[PAD]\n[UNK]\n\n\u{2028}\n\u{A0}x\nb \n", "[PAD]\r\n[UNK]\r\n\r\n\u{2028}\r\n\u{A0}x\r\nb\r\n\r\n"]
        {
            let (tokenizer, _) = read(vocab, None).unwrap();
            let numbers = ["[PAD]", "[UNK]", "\u{2028}", "\u{A0}x", "b", ""].map(|token| tokenizer.token_to_id(token));
            assert_eq!(numbers, [Some(0), Some(1), Some(3), Some(4), Some(5), None]);
        }
    }

    /// Token numbers recorded from the original tokenizer (`BertTokenizer` of transformers 4.57.6, without special
    /// tokens). `tools/peers/bert_tokens.py` compares a thousand captions with bert-base-uncased's own vocabulary.
    #[test]
    fn tokens_are_those_of_berts_own_tokenizer() {
        let vocab = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n[unused0]\na\nphoto\nof\nthe\ncafe\nnaive\n##s\n##graph\nun\n##aff\n\
                     ##able\nistanbul\nℝ\n##ℝ\nß\nstra\n##ße\n##e\n.\n,\n'\n-\n!\n#\n(\n)\n东\n京\n猫\n🐶\n❤\n##\u{FE0F}\n€\n½\n\
                     fi\n##ne\nｆ\n1\n##9\n2019\nx\n²\n";
        let recorded: &[(&str, &[u32])] = &[
            ("A Photo of the CAFÉ", &[6, 7, 8, 9, 10]),
            ("Cafe\u{301}s, NAÏVE photographs", &[10, 12, 25, 11, 7, 13, 12]),
            ("unaffable UNAFFABLE", &[14, 15, 16, 14, 15, 16]),
            ("İstanbul's 猫", &[17, 26, 1, 34]),
            ("東京 东京猫!", &[1, 33, 32, 33, 34, 28]),
            ("🐶 ❤\u{FE0F} 🐶🐶", &[35, 36, 1]),
            ("x ∈ ℝ, x² ℝℝ", &[46, 1, 18, 25, 1, 18, 19]),
            ("Straße STRASSE", &[21, 22, 21, 12, 12, 23]),
            ("a\u{A0}photo\u{200B}graph\u{AD} (2019)", &[6, 7, 13, 30, 45, 31]),
            ("#19 €½ \u{FB01}ne ½", &[29, 43, 44, 1, 1, 39]),
            ("zebra a.b-c", &[1, 6, 24, 1, 27, 1]),
        ];
        let (tokenizer, reason) = read(vocab, None).unwrap();
        assert_eq!(reason, "none of its tokens has a capital");
        for (caption, numbers) in recorded {
            assert_eq!(tokenizer.encode(*caption, false).unwrap().get_ids(), *numbers, "{caption}");
        }
    }
}
