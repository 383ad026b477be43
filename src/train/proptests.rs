//! Properties of the options.

use std::path::PathBuf;

use proptest::{collection::vec, option, prelude::*};

use super::{Options, duration};
use crate::{
    autograd::Recompute,
    data::CaptionLines,
    eval::Labels,
    fuzzing::{cases, with_file},
    model::Loss,
};

/// At most one length of the run.
#[derive(Clone, Debug)]
enum Length {
    None,
    Steps(u64),
    Samples(u64),
    Epochs(f64),
    Time(String),
}

fn options() -> impl Strategy<Value = Options> {
    // TOML's integers are signed.
    let count = || 0..=i64::MAX as u64;
    let size = || option::of((0..=i64::MAX as u64).prop_map(|size| size as usize));
    let text = || option::of(any::<String>());
    let path = || option::of(any::<String>().prop_map(PathBuf::from));
    let real = || prop::num::f64::NORMAL | prop::num::f64::SUBNORMAL | prop::num::f64::ZERO;
    let single = || option::of(prop::num::f32::NORMAL | prop::num::f32::SUBNORMAL | prop::num::f32::ZERO);
    let length = prop_oneof![
        Just(Length::None),
        count().prop_map(Length::Steps),
        count().prop_map(Length::Samples),
        real().prop_map(Length::Epochs),
        any::<String>().prop_map(Length::Time),
    ];
    let enums = (
        option::of(prop::sample::select(
            ["tiny", "h14", "ViT-B-32", "ViT-L-14-CLIPA", "a/model.json"].map(|name| name.parse().unwrap()).to_vec(),
        )),
        option::of(prop::sample::select(vec![Loss::Infonce, Loss::Sigmoid])),
        option::of(prop::sample::select(vec![Recompute::None, Recompute::Cheap, Recompute::Blocks])),
        option::of(prop::sample::select(vec![CaptionLines::Each, CaptionLines::Join])),
        option::of(prop::sample::select(vec![Labels::Auto, Labels::Names, Labels::Numbers])),
    );
    let words = (option::of(vec(any::<String>(), 0..4)), text(), text(), path(), path());
    let numbers = (size(), size(), option::of(count()), single(), single(), option::of(real()));
    let flags = (option::of(any::<bool>()), option::of(any::<bool>()), option::of(any::<bool>()));
    (enums, words, numbers, flags, length).prop_map(|(enums, words, numbers, flags, length)| {
        let (model, loss, recompute, caption_lines, labels) = enums;
        let (data, caption_key, pad_token, tokenizer, init_from) = words;
        let (batch, keep, seed, flip, clip_norm, lr) = numbers;
        let (lower_case, decay_cls, special_tokens) = flags;
        let mut options = Options { model, loss, recompute, caption_lines, labels, ..Options::default() };
        options = Options { data, caption_key, pad_token, tokenizer, init_from, ..options };
        options = Options { batch, keep, seed, flip, clip_norm, lr, lower_case, decay_cls, special_tokens, ..options };
        match length {
            Length::None => {}
            Length::Steps(steps) => options.steps = Some(steps),
            Length::Samples(samples) => options.samples = Some(samples),
            Length::Epochs(epochs) => options.epochs = Some(epochs),
            Length::Time(time) => options.time = Some(time),
        }
        options
    })
}

proptest! {
    #![proptest_config(cases(256))]

    #[test]
    fn options_come_back_from_their_file(options in options()) {
        let toml = options.to_toml().unwrap();
        let mut read = None;
        with_file(toml.as_bytes(), |path| read = Some(Options::default().over_file(path)));
        prop_assert_eq!(read.unwrap().unwrap(), options);
    }

    #[test]
    fn times_are_read_as_they_are_written(hours in 0..1000_u64, minutes in 0..1000_u64, seconds in 1..1000_u64) {
        let text = format!("{hours}h{minutes}m{seconds}s");
        prop_assert_eq!(duration::parse(&text).map(|time| time.as_secs()), Some(hours * 3600 + minutes * 60 + seconds));
    }

    #[test]
    fn no_text_makes_the_reader_of_times_panic(text in "[0-9hms -]{0,30}") {
        duration::parse(&text);
    }
}
