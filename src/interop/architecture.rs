//! What `--model` names.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::InteropError;
use super::open_clip::{self, Described, NAMES, Tokens};
use crate::model::{Loss, ModelConfig, Preset};

/// The name of a model, or a file that describes one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Architecture {
    /// One of FLIP's.
    Preset(Preset),
    /// One of OpenCLIP's, by a name that [`open_clip::named`] knows.
    OpenClip(String),
    /// OpenCLIP's description of a model, or [`ModelConfig`] as JSON.
    File(PathBuf),
}

impl Architecture {
    /// Sizes and choices.
    ///
    /// # Errors
    /// A file that cannot be read, or that asks for what flipk's models do not have.
    pub fn describe(&self) -> Result<Described, InteropError> {
        match self {
            Self::Preset(preset) => {
                Ok(Described { model: preset.config(), loss: Loss::Infonce, tokens: Tokens::Unknown, trunk: None })
            }
            Self::OpenClip(name) => open_clip::named(name).ok_or_else(|| InteropError::Name { problem: unknown(name) }),
            Self::File(path) => {
                let text = std::fs::read_to_string(path);
                let text = text.map_err(|source| InteropError::Open { path: path.clone(), source })?;
                read(&text, path.parent()).map_err(|source| source.within(path))
            }
        }
    }

    /// A name for the folder of a run.
    pub fn short_name(&self) -> String {
        match self {
            Self::Preset(preset) => preset.to_string(),
            Self::OpenClip(name) => name.clone(),
            Self::File(path) => {
                let stem = path.file_stem().unwrap_or_default().to_string_lossy();
                // Such names say nothing of the model; that of the folder may.
                let folder = || path.parent()?.file_name().map(|name| name.to_string_lossy());
                let generic = ["model", "open_clip_config", "config", "open_clip_model"].contains(&&*stem);
                folder().filter(|_| generic).unwrap_or(stem).into_owned()
            }
        }
    }
}

fn read(text: &str, beside: Option<&Path>) -> Result<Described, InteropError> {
    let value: serde_json::Value = serde_json::from_str(text)?;
    if value.get("vision").is_none() {
        return open_clip::describe(text, beside);
    }
    let model: ModelConfig = serde_json::from_value(value)?;
    model.check()?;
    Ok(Described { model, loss: Loss::Infonce, tokens: Tokens::Unknown, trunk: None })
}

fn unknown(name: &str) -> String {
    let presets = Preset::ALL.map(|preset| preset.to_string()).join(", ");
    format!(
        "there is no model `{name}`; flipk has {presets}, of OpenCLIP {} (each also with -quickgelu), and takes the path of \
         an open_clip_config.json",
        NAMES.join(", ")
    )
}

impl FromStr for Architecture {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        if let Some(preset) = Preset::ALL.into_iter().find(|preset| preset.to_string() == name) {
            return Ok(Self::Preset(preset));
        }
        if open_clip::named(name).is_some() {
            return Ok(Self::OpenClip(name.to_owned()));
        }
        let path = Path::new(name);
        let is_json = path.extension().is_some_and(|ending| ending == "json");
        match is_json || name.contains(std::path::MAIN_SEPARATOR) || path.exists() {
            true => Ok(Self::File(path.to_owned())),
            false => Err(unknown(name)),
        }
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Preset(preset) => preset.fmt(f),
            Self::OpenClip(name) => f.pad(name),
            Self::File(path) => path.display().fmt(f),
        }
    }
}

impl From<Preset> for Architecture {
    fn from(preset: Preset) -> Self {
        Self::Preset(preset)
    }
}

impl TryFrom<String> for Architecture {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        name.parse()
    }
}

impl From<Architecture> for String {
    fn from(architecture: Architecture) -> Self {
        architecture.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_paths_are_told_apart() {
        let parse = |name: &str| name.parse::<Architecture>();
        assert_eq!(parse("l14"), Ok(Preset::L14.into()));
        assert_eq!(parse("ViT-L-14-quickgelu"), Ok(Architecture::OpenClip("ViT-L-14-quickgelu".to_owned())));
        assert_eq!(parse("my.json"), Ok(Architecture::File("my.json".into())));
        let error = parse("vit-b-16").unwrap_err();
        assert!(error.contains("no model `vit-b-16`") && error.contains("tiny, b16") && error.contains("ViT-bigG-14"));
        assert_eq!(parse("laion/open_clip_config.json").unwrap().short_name(), "laion");
        assert_eq!(parse("configs/ViT-M.json").unwrap().short_name(), "ViT-M");
    }

    #[test]
    fn files_of_both_kinds_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.json");
        let describe = |text: &str| {
            std::fs::write(&path, text).unwrap();
            Architecture::File(path.clone()).describe()
        };
        let own = Preset::L16.config();
        assert_eq!(describe(&serde_json::to_string(&own).unwrap()).unwrap().model, own);
        let theirs = describe(r#"{"embed_dim": 512, "vision_cfg": {}, "text_cfg": {}}"#).unwrap();
        assert_eq!((theirs.model.context, theirs.tokens), (77, Tokens::Clip));
        let error = describe(r#"{"embed_dim": 512, "vision_cfg": {"qk_norm": true}, "text_cfg": {}}"#).unwrap_err();
        let expected = format!("{}: `vision_cfg.qk_norm` is true, which flipk's models do not have", path.display());
        assert_eq!(error.to_string(), expected);
        std::fs::remove_file(&path).unwrap();
        let missing = Architecture::File(path.clone()).describe().unwrap_err();
        assert!(missing.to_string().starts_with(&path.display().to_string()), "{missing}");
    }
}
