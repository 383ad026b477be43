//! Whether a checkpoint is whole, and what a file is that is none.

use safetensors::{SafeTensorError, SafeTensors};

use super::{MOMENTS, group_of};

/// The header's key of the checksums.
pub(super) const CHECKSUMS: &str = "crc32c";

/// CRC-32C over names and bytes of the tensors of each group: weights, first and second moments.
pub(super) fn checksums<'a>(tensors: impl Iterator<Item = (&'a str, &'a [u8])>) -> [u32; 3] {
    let mut tensors: Vec<(&str, &[u8])> = tensors.collect();
    tensors.sort_unstable_by_key(|(name, _)| *name);
    tensors.iter().fold([0; 3], |mut sums, (name, bytes)| {
        let sum = &mut sums[group_of(name)];
        *sum = crc32c::crc32c_append(crc32c::crc32c_append(*sum, name.as_bytes()), bytes);
        sums
    })
}

pub(super) fn written(sums: [u32; 3]) -> String {
    sums.map(|sum| format!("{sum:08x}")).join(" ")
}

/// Compares the tensors of `groups` with the checksums in the header; a checkpoint of an earlier flipk has none.
pub(super) fn verify(file: &SafeTensors<'_>, header: Option<&String>, groups: &[usize]) -> Result<(), String> {
    let Some(header) = header else { return Ok(()) };
    let mut promised = header.split(' ').map(|sum| u32::from_str_radix(sum, 16).ok());
    let promised: [Option<u32>; 3] = [(); 3].map(|()| promised.next().flatten());
    let tensors = file.tensors();
    let wanted = tensors.iter().filter(|(name, _)| groups.contains(&group_of(name)));
    let found = checksums(wanted.map(|(name, tensor)| (name.as_str(), tensor.data())));
    match groups.iter().find(|&&group| promised[group] != Some(found[group])) {
        None => Ok(()),
        Some(0) => Err("it is damaged: its weights are not those that were written".to_owned()),
        Some(_) => Err("it is damaged: AdamW's moments are not those that were written".to_owned()),
    }
}

/// What a file is that cannot be read as safetensors.
pub(super) fn unreadable(bytes: &[u8], error: &SafeTensorError) -> String {
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
        return format!("it holds nothing but {} zero bytes", bytes.len());
    }
    if let Some((_, name)) = OTHERS.iter().find(|(signature, _)| bytes.starts_with(signature)) {
        return format!("it is {name}; {ONLY}");
    }
    match error {
        SafeTensorError::MetadataIncompleteBuffer | SafeTensorError::InvalidHeaderLength => {
            format!("it is cut: its header promises more than the {} bytes that are there", bytes.len())
        }
        error => error.to_string(),
    }
}

const ONLY: &str = "flipk reads its own checkpoints only, the step-*.safetensors of a run folder";

/// Whose weights these are, by the names of their tensors.
pub(super) fn foreign(file: &SafeTensors<'_>) -> String {
    let names = file.names();
    let has = |part: &str| names.iter().any(|name| name.contains(part));
    let whose = if has("visual.") && (has("transformer.resblocks.") || has("visual.trunk.")) {
        "it holds weights of OpenCLIP".to_owned()
    } else if has("vision_model.") || has("text_model.") {
        "it holds weights of Hugging Face's transformers".to_owned()
    } else if has(MOMENTS[0]) {
        "its header has no state of a run".to_owned()
    } else {
        match names.iter().min() {
            Some(first) => format!("it holds another program's tensors, such as `{first}`"),
            None => "it holds no tensors".to_owned(),
        }
    };
    format!("{whose}; {ONLY}")
}
