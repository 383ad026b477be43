//! Whether a checkpoint is intact, and what a file is that is not a checkpoint.

use safetensors::{SafeTensorError, SafeTensors};

use super::{MOMENTS, group_of};
use crate::train::error::Problem;

/// The header's key of the checksums.
pub(super) const CHECKSUMS: &str = "crc32c";

/// The CRC-32C of each group of tensors (weights, first moments, second moments), over their names and bytes.
pub(super) fn checksums<'a>(tensors: impl Iterator<Item = (&'a str, &'a [u8])>) -> [u32; 3] {
    let mut tensors: Vec<(&str, &[u8])> = tensors.collect();
    tensors.sort_unstable_by_key(|(name, _)| *name);
    tensors.iter().fold([0; 3], |mut sums, (name, bytes)| {
        let sum = &mut sums[group_of(name)];
        *sum = crc32c::crc32c_append(crc32c::crc32c_append(*sum, name.as_bytes()), bytes);
        sums
    })
}

/// The checksums as the header has them: those of the groups, then that of the state's JSON.
pub(super) fn to_text(sums: [u32; 3], state: &str) -> String {
    let sums = sums.into_iter().chain([crc32c::crc32c(state.as_bytes())]);
    sums.map(|sum| format!("{sum:08x}")).collect::<Vec<_>>().join(" ")
}

/// Compares the state's JSON with the header's checksums; earlier versions did not write one of it.
pub(super) fn verify_state(state: &str, header: Option<&str>) -> Result<(), String> {
    match header.and_then(|header| header.split(' ').nth(3)) {
        Some(written) if written != format!("{:08x}", crc32c::crc32c(state.as_bytes())) => {
            Err("it is damaged: the state in its header does not match its checksum".to_owned())
        }
        _ => Ok(()),
    }
}

/// Compares the tensors of `groups` with the header's checksums; earlier versions did not write any.
pub(super) fn verify(file: &SafeTensors<'_>, header: Option<&str>, groups: &[usize]) -> Result<(), String> {
    let Some(header) = header else { return Ok(()) };
    let tensors = file.tensors();
    let wanted = tensors.iter().filter(|(name, _)| groups.contains(&group_of(name)));
    let found = checksums(wanted.map(|(name, tensor)| (name.as_str(), tensor.data())));
    let differs = |group: usize| header.split(' ').nth(group) != Some(&format!("{:08x}", found[group]));
    match groups.iter().find(|&&group| differs(group)) {
        None => Ok(()),
        Some(0) => Err("it is damaged: its weights do not match their checksum".to_owned()),
        Some(_) => Err("it is damaged: AdamW's moments do not match their checksum".to_owned()),
    }
}

/// What is wrong with a file that cannot be read as safetensors.
pub(super) fn unreadable(bytes: &[u8], error: SafeTensorError) -> Problem {
    const OTHERS: &[(&[u8], &str)] = &[
        (b"PK\x03\x04", "a PyTorch file (a ZIP of pickles)"),
        (b"\x80\x02", "a Python pickle, as older PyTorch files are"),
        (b"\x80\x03", "a Python pickle"),
        (b"\x80\x04", "a Python pickle"),
        (b"\x80\x05", "a Python pickle"),
        (b"\x89HDF", "an HDF5 file"),
        (b"GGUF", "a GGUF file"),
        (b"\x1F\x8B", "a gzip file"),
    ];
    if bytes.iter().all(|&byte| byte == 0) {
        return format!("it has only zero bytes ({})", bytes.len()).into();
    }
    if let Some((_, name)) = OTHERS.iter().find(|(signature, _)| bytes.starts_with(signature)) {
        return format!("it is {name}; {ONLY}").into();
    }
    match error {
        SafeTensorError::MetadataIncompleteBuffer | SafeTensorError::InvalidHeaderLength => {
            format!("it is truncated: its header describes more than the {} bytes in the file", bytes.len()).into()
        }
        error => error.into(),
    }
}

const ONLY: &str = "flipk reads only its own checkpoints, the step-*.safetensors of a run folder";

/// Says which program wrote a file, by the names of its tensors.
pub(super) fn foreign(file: &SafeTensors<'_>) -> String {
    let names = file.names();
    let has = |part: &str| names.iter().any(|name| name.contains(part));
    let whose = if has("visual.") && (has("transformer.resblocks.") || has("visual.trunk.")) {
        "it has weights of OpenCLIP".to_owned()
    } else if has("vision_model.") || has("text_model.") {
        "it has weights of Hugging Face's transformers".to_owned()
    } else if has(MOMENTS[0]) {
        "its header has no state of a run".to_owned()
    } else {
        match names.iter().min() {
            Some(first) => format!("it has another program's tensors, such as `{first}`"),
            None => "it has no tensors".to_owned(),
        }
    };
    format!("{whose}; {ONLY}")
}
