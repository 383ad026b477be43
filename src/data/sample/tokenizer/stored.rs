//! The tokens of a sample's captions, as a pack stores them beside the captions (`KEY.tokens`).
//!
//! | bytes | what |
//! |---|---|
//! | 8 | `\x8AflipkT\n` |
//! | 8 | fingerprint of the tokenizer |
//! | 4 | CRC-32C of what follows |
//! | 8, 4 | of each caption: a hash of it, and how many tokens it has |
//! | ... | its tokens, 2 bytes each, or 4 if the vocabulary has more than 65,536 |
//!
//! Numbers are little-endian. The tokens are those of the whole caption, without padding, start or end token, so they
//! serve any context. A caption is found by its hash: another one, such as one with tags behind it, is tokenised.

use tokenizers::ModelWrapper;

use super::{MAX_TEXT, Tokenizer};
use crate::data::format::MAX_TOKENS;

const MAGIC: &[u8] = b"\x8AflipkT\n";
/// Captions with more tokens are not stored: they are rare, and a context is shorter.
const MAX_STORED: usize = 1024;
/// Part of the fingerprint; to be changed if a text's tokens change for a reason that is not in `tokenizer.json`.
const VERSION: u8 = 1;
/// Bytes before the captions.
const HEAD: usize = 20;

impl Tokenizer {
    /// Over all that decides on the tokens of a text, without padding, start and end token; 0 if it cannot be written
    /// as JSON, or draws random tokens.
    pub(crate) fn fingerprint(&self) -> u64 {
        *self.fingerprint.get_or_init(|| {
            if matches!(self.inner.get_model(), ModelWrapper::BPE(model) if model.dropout.is_some()) {
                return 0;
            }
            let mut rules = (*self.inner).clone();
            rules.with_padding(None);
            let lower = self.frame.lower && self.is_built_in();
            let rest = format!("\n{VERSION} {MAX_TEXT} {} {lower}", self.frame.clean);
            rules.to_string(false).map_or(0, |rules| hash((rules + &rest).as_bytes()))
        })
    }

    /// The member that stores the tokens of these captions; `None` if none can be stored.
    pub(crate) fn store(&self, captions: &[String]) -> Option<Vec<u8>> {
        let mut body = Vec::new();
        for caption in captions {
            let Ok(encoding) = self.encoding(caption) else { continue };
            let ids = encoding.get_ids();
            if ids.len() <= MAX_STORED && body.len() + 12 + 4 * MAX_STORED < MAX_TOKENS as usize - HEAD {
                body.extend_from_slice(&hash(caption.as_bytes()).to_le_bytes());
                body.extend_from_slice(&(ids.len() as u32).to_le_bytes());
                ids.iter().for_each(|id| body.extend_from_slice(&id.to_le_bytes()[..self.width()]));
            }
        }
        let checksum = crc32c::crc32c(&body).to_le_bytes();
        let is_stored = !body.is_empty() && self.fingerprint() != 0;
        is_stored.then(|| [MAGIC, &self.fingerprint().to_le_bytes()[..], &checksum, &body].concat())
    }

    /// Whether the tokens in a member are those of this tokenizer; `None` if it holds none that flipk has stored.
    pub(crate) fn has_stored(&self, member: &[u8]) -> Option<bool> {
        let (fingerprint, _) = member.strip_prefix(MAGIC)?.split_first_chunk()?;
        let fingerprint = u64::from_le_bytes(*fingerprint);
        Some(fingerprint != 0 && fingerprint == self.fingerprint())
    }

    /// As [`Self::encode`], from what [`Self::store`] has made. Returns whether `caption` is stored there, by this
    /// tokenizer; if not, `out` is as before.
    pub(crate) fn encode_stored(&self, member: &[u8], caption: &str, out: &mut [i32]) -> bool {
        let Some(ids) = self.find(member, caption) else { return false };
        let id = |bytes: &[u8]| bytes.iter().rev().fold(0, |id, &byte| id << 8 | u32::from(byte));
        let ids = ids.chunks_exact(self.width()).map(id);
        // A row of the table would be missing.
        if ids.clone().any(|id| id as usize >= self.vocab_size) {
            return false;
        }
        self.row(ids, out);
        true
    }

    /// Whether a member has the tokens of a caption, by this tokenizer.
    pub(crate) fn stores(&self, member: &[u8], caption: &str) -> bool {
        self.find(member, caption).is_some()
    }

    /// The bytes of a caption's tokens.
    fn find<'a>(&self, member: &'a [u8], caption: &str) -> Option<&'a [u8]> {
        let (head, mut rest) = member.split_at_checked(HEAD).filter(|_| self.has_stored(member) == Some(true))?;
        if head[16..] != crc32c::crc32c(rest).to_le_bytes() {
            return None;
        }
        let wanted = hash(caption.as_bytes()).to_le_bytes();
        loop {
            let (found, after) = rest.split_first_chunk::<8>()?;
            let (count, after) = after.split_first_chunk::<4>()?;
            let (ids, after) =
                after.split_at_checked((u32::from_le_bytes(*count) as usize).checked_mul(self.width())?)?;
            if *found == wanted {
                return Some(ids);
            }
            rest = after;
        }
    }

    /// Bytes of a stored token.
    fn width(&self) -> usize {
        if self.vocab_size <= 1 << 16 { 2 } else { 4 }
    }
}

/// FNV-1a of 64 bits.
fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xCBF2_9CE4_8422_2325, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01B3))
}

#[cfg(test)]
mod tests {
    use super::super::{Texts, TokenizerOptions};
    use super::*;
    use crate::fuzzing::seeds;

    /// Every kind of model, the built-in ones, and a vocabulary that needs four bytes.
    fn tokenizers() -> Vec<Tokenizer> {
        let large: String = (0..70_000).map(|number| format!("w{number}\n")).collect();
        let large = ["[PAD]\n[UNK]\n[CLS]\n[SEP]\n", &large].concat();
        let files = seeds::tokenizers().into_iter().chain([large.into_bytes()]);
        let texts = [Texts::Flip, Texts::OpenClip { strip_sep: false }, Texts::OpenClip { strip_sep: true }];
        let options = texts.map(|texts| TokenizerOptions { texts, ..TokenizerOptions::default() });
        let with = |options: &TokenizerOptions| [Tokenizer::clip(options), Tokenizer::embedded(options)];
        let built_in = options.iter().flat_map(with).map(Result::unwrap);
        let read = |bytes: Vec<u8>| options.clone().map(|options| Tokenizer::read(&bytes, "file", &options).unwrap());
        built_in.chain(files.flat_map(read)).collect()
    }

    const CAPTIONS: [&str; 7] = [
        "a photo of a cat",
        "A Photo of a CAT",
        "caf\u{e9} &amp; w12 w69999",
        "zebra, zebras and 2019 more",
        "\u{732b}\u{1f436}\u{fe0f}",
        "a",
        "",
    ];

    #[test]
    fn stored_tokens_are_those_of_the_text() {
        for tokenizer in tokenizers() {
            let long = "photo of a cat w3 ".repeat(40);
            let captions: Vec<String> = CAPTIONS.into_iter().chain([&*long]).map(str::to_owned).collect();
            let Some(member) = tokenizer.store(&captions) else { panic!("{}", tokenizer.describe()) };
            // As a run has it.
            let again = Tokenizer::from_bytes(tokenizer.to_json().unwrap().as_bytes(), "again").unwrap();
            for (context, caption) in [1, 3, 16, 77, 600].into_iter().flat_map(|c| captions.iter().map(move |t| (c, t)))
            {
                let (mut expected, mut found) = (vec![-1; context], vec![-1; context]);
                let encoded = tokenizer.encode(caption, &mut expected).is_ok();
                assert_eq!(again.encode_stored(&member, caption, &mut found), encoded, "{caption}");
                assert_eq!(found, expected, "{caption} by {}", tokenizer.describe());
            }
            let mut out = [-1; 4];
            assert!(!tokenizer.encode_stored(&member, "a photo of a cat, red", &mut out) && out == [-1; 4]);
        }
    }

    #[test]
    fn tokens_of_another_tokenizer_are_not_used() {
        let all = tokenizers();
        let caption = ["a photo".to_owned()];
        let prints: Vec<u64> = all.iter().map(Tokenizer::fingerprint).collect();
        for (tokenizer, fingerprint) in all.iter().zip(&prints) {
            let member = tokenizer.store(&caption).unwrap();
            for (other, print) in all.iter().zip(&prints) {
                assert_eq!(other.encode_stored(&member, &caption[0], &mut [0; 4]), print == fingerprint);
            }
        }
        // What only frames and pads a text is left out of it.
        let clip = |options: TokenizerOptions| Tokenizer::clip(&options).unwrap().fingerprint();
        let usual = clip(TokenizerOptions::default());
        assert_eq!(usual, clip(TokenizerOptions { special_tokens: Some(true), ..TokenizerOptions::default() }));
        assert_eq!(usual, clip(TokenizerOptions { pad_token: Some("!".to_owned()), ..TokenizerOptions::default() }));
        assert_ne!(usual, clip(TokenizerOptions { lower_case: Some(false), ..TokenizerOptions::default() }));
    }

    #[test]
    fn what_is_damaged_or_too_long_is_tokenised() {
        let tokenizer = Tokenizer::from_bytes(b"[PAD]\n[UNK]\na\ncat\n", "vocab.txt").unwrap();
        let captions = ["a cat".to_owned(), "a ".repeat(2000)];
        let member = tokenizer.store(&captions).unwrap();
        assert_eq!(member.len(), HEAD + 12 + 2 * 2);
        let mut out = [-1; 4];
        for at in 0..member.len() {
            let mut damaged = member.clone();
            damaged[at] ^= 1;
            assert!(!tokenizer.encode_stored(&damaged, "a cat", &mut out), "{at}");
            assert!(!tokenizer.encode_stored(&member[..at], "a cat", &mut out), "{at}");
        }
        // A number that the vocabulary does not have, with the right checksum.
        let mut wrong = member.clone();
        let last = wrong.len() - 2;
        wrong[last] = 4;
        let checksum = crc32c::crc32c(&wrong[HEAD..]).to_le_bytes();
        wrong[16..HEAD].copy_from_slice(&checksum);
        assert!(!tokenizer.encode_stored(&wrong, "a cat", &mut out) && out == [-1; 4]);
        assert!(tokenizer.encode_stored(&member, "a cat", &mut out) && out == [2, 3, 0, 0]);
        assert_eq!(tokenizer.store(&captions[1..]), None);
        assert_eq!((tokenizer.has_stored(&member), tokenizer.has_stored(&[2, 3])), (Some(true), None));
        let many: Vec<String> = (0..100_000).map(|number| format!("a cat {number}")).collect();
        assert!(tokenizer.store(&many).unwrap().len() <= MAX_TOKENS as usize);
    }
}
