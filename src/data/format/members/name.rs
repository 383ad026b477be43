//! Names of members: keys and extensions.

/// The key and the extension of a member; `None` for hidden files, `__meta__` files and those without a dot.
pub(crate) fn key_and_extension(member: &[u8]) -> Option<(&[u8], &[u8])> {
    let member = member.strip_prefix(b"./").unwrap_or(member);
    let base = member.iter().rposition(|&byte| byte == b'/').map_or(0, |slash| slash + 1);
    let dot = base + member[base..].iter().position(|&byte| byte == b'.')?;
    let stem = &member[base..dot];
    let private = stem.starts_with(b"__") && stem.ends_with(b"__");
    (!stem.is_empty() && !private).then(|| (&member[..dot], &member[dot + 1..]))
}

/// A name for messages: bytes that are not UTF-8 become `\xE9`.
pub(crate) fn printable(name: &[u8]) -> String {
    let mut text = String::new();
    for chunk in name.utf8_chunks() {
        text.push_str(chunk.valid());
        chunk.invalid().iter().for_each(|byte| text.push_str(&format!("\\x{byte:02X}")));
    }
    text
}
