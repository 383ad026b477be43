//! Options in files and on the command line.

use super::*;
use crate::model::Preset;
use crate::train::Settings;

fn read(text: &str, flags: Options) -> Result<Options, String> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    flags.over_file(file.path()).map_err(|error| error.to_string())
}

#[test]
fn flags_win_over_the_file_and_replace_what_they_exclude() {
    let flags = Options { batch: Some(8), steps: Some(3), ..Options::default() };
    let merged = read("batch = 4\nepochs = 2.5\nseed = 7\nmodel = \"b16\"\ndata = ['a.tar']", flags).unwrap();
    let expected = Options {
        batch: Some(8),
        steps: Some(3),
        seed: Some(7),
        model: Some(Preset::B16.into()),
        data: Some(vec!["a.tar".to_owned()]),
        ..Options::default()
    };
    assert_eq!(merged, expected);
    assert_eq!(merged.changed_from(&Options { batch: Some(9), ..expected }), ["batch"]);
}

#[test]
fn options_survive_their_file() {
    let options = Options { lr: Some(1e-3), flip: Some(0.1), decay_cls: Some(false), ..Options::default() };
    assert_eq!(read(&options.to_toml().unwrap(), Options::default()).unwrap(), options);
    for (text, lower) in [("\"yes\"", true), ("\"no\"", false), ("true", true), ("false", false)] {
        let options = Options { lower_case: Some(lower), ..Options::default() };
        assert_eq!(read(&format!("\u{FEFF}lower_case = {text}\r\n"), Options::default()).unwrap(), options);
        assert_eq!(read(&options.to_toml().unwrap(), Options::default()).unwrap(), options);
    }
}

#[test]
fn a_truncated_config_is_noticed() {
    let options = Settings::resolve(Options::default(), Preset::Tiny.config(), 4096).unwrap().options;
    let text = options.to_toml().unwrap();
    let whole = |text: &str| {
        read(text, Options::default())
            .and_then(|options| options.check_whole(Path::new("config.toml")).map_err(|error| error.to_string()))
    };
    whole(&text).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    for kept in 0..lines.len() {
        let error = whole(&lines[..kept].join("\n")).unwrap_err();
        assert!(error.contains("probably truncated"), "{kept} lines: {error}");
    }
}

#[test]
fn mistakes_in_the_file_are_named() {
    let error = |text: &str| read(text, Options::default()).unwrap_err();
    assert!(error("mask_ration = 0.5").contains("unknown key `mask_ration`; did you mean `mask_ratio`?"));
    assert!(error("device = 'cpu'").contains("on the command line as --device"));
    assert!(error("zzz = 1").contains("the keys are data, weight, resample, eval_data"));
    assert!(error("lower_case = \"maybe\"").contains("\"yes\" or \"no\""));
    assert!(error("batch = \"many\"").contains("batch = \"many\""));
    assert!(error("[train]\nlr = 1.0").contains("no sections such as [train]"));
    assert!(error("[model]\nname = 'b16'").contains("write `model = ...`"));
    for (text, words) in [
        ("data = 'a.tar'", "expected a list, such as"),
        ("model = ['b16']", "expected one text in quotes"),
        ("log_every = 1.5", "expected a whole number, 0 or more"),
        ("batch = -1", "expected a whole number, 0 or more"),
        ("lr = '1e-3'", "expected a number"),
        ("decay_cls = 'yes'", "expected true or false"),
    ] {
        assert!(error(text).contains(words), "{}", error(text));
    }
    assert!(error("steps = 1\nepochs = 2").contains("steps and epochs exclude each other"));
    assert!(error("steps 1").contains("1 |"), "{}", error("steps 1"));
}

/// The help of an option ends with its default, as [`Settings::resolve`] fills it in.
#[cfg(feature = "cli")]
#[test]
fn the_help_gives_the_defaults() {
    use clap::Args as _;
    let command = Options::augment_args(clap::Command::new("flipk"));
    let says = |option: &str, default: &str| {
        let help = command.get_arguments().find(|arg| arg.get_id() == option).unwrap().get_help().unwrap().to_string();
        assert!(help.contains(&format!("[default: {default}")), "{help}");
    };
    let [tiny, paper] = [Preset::Tiny, Preset::B16].map(|preset| {
        let options = Options { model: Some(preset.into()), ..Options::default() };
        Settings::resolve(options, preset.config(), 4096).unwrap().options
    });
    assert_eq!((tiny.batch, tiny.seed), (paper.batch, paper.seed));
    says("batch", &format!("{}]", tiny.batch.unwrap()));
    says("samples", &format!("{} for tiny, else --epochs {}]", tiny.samples.unwrap(), paper.epochs.unwrap()));
    says("epochs", &format!("{}, except for tiny", paper.epochs.unwrap()));
    says("lr", &format!("{:e} for tiny, else that of --base-lr]", tiny.lr.unwrap()));
    says("base_lr", &format!("{:e}, except for tiny", paper.base_lr.unwrap()));
    let [masked, else_masked] = [&tiny, &paper].map(|options| options.mask_ratio.unwrap());
    says("mask_ratio", &format!("{masked} for tiny (see --model), else {else_masked}]"));
    says("seed", &format!("{}]", tiny.seed.unwrap()));
}

/// As the help of --model says: what counts is the base, before options change it.
#[test]
fn defaults_for_tiny_depend_on_the_towers_before_options_change_them() {
    let mask = |options: Options, base| Settings::resolve(options, base, 4096).unwrap().options.mask_ratio;
    let tiny = Preset::Tiny.config();
    assert_eq!(mask(Options { vision_layers: Some(1), ..Options::default() }, tiny.clone()), Some(0.75));
    let mut other = tiny;
    other.vision.layers = 1;
    assert_eq!(mask(Options::default(), other), Some(0.5));
}
