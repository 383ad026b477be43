//! Flags as OpenCLIP's users know them, where flipk's are not simply other names.

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::train::Options;

#[derive(Args)]
pub(super) struct OpenClip {
    /// --weight, as in 2::1
    #[arg(long, value_name = "W::W", conflicts_with = "weight", hide = true)]
    train_data_upsampling_factors: Option<String>,
    /// --caption-key
    #[arg(long, value_name = "KEY", num_args = 1.., hide = true)]
    json_text_key: Option<Vec<String>>,
    /// --caption-key
    #[arg(long, value_name = "P", num_args = 1.., hide = true)]
    json_text_key_probs: Option<Vec<String>>,
}

impl OpenClip {
    /// Fills in the options that these flags stand for.
    ///
    /// # Errors
    /// If a flag must be written differently; the error says how.
    pub(super) fn apply(&self, options: &mut Options) -> Result<()> {
        if let Some(factors) = &self.train_data_upsampling_factors {
            let weights = factors.split("::").map(str::parse).collect::<Result<_, _>>();
            let wrong = || format!("--train-data-upsampling-factors {factors}: write numbers, as in 2::1");
            options.weight = Some(weights.with_context(wrong)?);
        }
        let [keys, probs] = [&self.json_text_key, &self.json_text_key_probs].map(|flag| parts(flag.as_deref()));
        if keys.is_empty() && probs.is_empty() {
            return Ok(());
        }
        let fields: Vec<String> = match probs.len() == keys.len() {
            true => keys.iter().zip(&probs).map(|(key, p)| format!("{key}:{p}")).collect(),
            false if keys.is_empty() => vec!["caption:0.7".to_owned(), "alt_text:0.3".to_owned()],
            false => keys,
        };
        bail!("--json-text-key and --json-text-key-probs are one flag here: --caption-key {}", fields.join(","))
    }
}

/// The parts of a list, whatever separates them.
fn parts(values: Option<&[String]>) -> Vec<String> {
    let parts = values.into_iter().flatten().flat_map(|value| value.split([',', ';', ':']));
    parts.map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned).collect()
}
