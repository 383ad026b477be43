//! The index against archives that the `tar` crate writes.

use proptest::{collection::vec, prelude::*};

use super::{header::pax_records, *};
use crate::fuzzing::cases;

/// How a member's name is written.
#[derive(Clone, Copy, Debug)]
enum Format {
    /// With a `L` header if it is long.
    Gnu,
    /// With a prefix if it is long.
    Ustar,
    Pax,
}

/// A path of up to 240 bytes in short parts, which ustar can split.
fn name() -> impl Strategy<Value = String> {
    "[a-z0-9é]{1,15}(/[a-zA-Z 猫]{1,15}){0,4}\\.[a-z]{1,4}".prop_filter("ustar", |name| name.len() < 200)
}

fn append(to: &mut ::tar::Builder<Vec<u8>>, format: Format, name: &str, data: &[u8]) -> io::Result<()> {
    let mut header = match format {
        Format::Ustar => ::tar::Header::new_ustar(),
        _ => ::tar::Header::new_gnu(),
    };
    header.set_size(data.len() as u64);
    match format {
        Format::Gnu => to.append_data(&mut header, name, data),
        Format::Ustar => {
            header.set_path(name)?;
            header.set_cksum();
            to.append(&header, data)
        }
        Format::Pax => {
            to.append_pax_extensions([("mtime", &b"1.5"[..]), ("path", name.as_bytes())])?;
            to.append_data(&mut header, "cut", data)
        }
    }
}

proptest! {
    #![proptest_config(cases(128))]

    #[test]
    fn members_come_back_as_the_tar_crate_wrote_them(
        members in vec((name(), vec(any::<u8>(), 0..1500), prop::sample::select(vec![Format::Gnu, Format::Ustar, Format::Pax])), 0..8),
    ) {
        let mut builder = ::tar::Builder::new(Vec::new());
        let mut expected = Vec::new();
        for (name, data, format) in members {
            // Not every long path has a slash where ustar's two fields meet.
            if append(&mut builder, format, &name, &data).is_ok() {
                expected.push((name.into_bytes(), data));
            }
        }
        let bytes = builder.into_inner().unwrap();
        let found = index(&bytes[..]).unwrap();
        prop_assert_eq!(found.faults, []);
        let read = |member: Member| match member.content {
            Content::Data(Span { start, len }) => (member.name, bytes[start.get() as usize..][..len as usize].to_vec()),
            other => panic!("{other:?}"),
        };
        prop_assert_eq!(found.members.into_iter().map(read).collect::<Vec<_>>(), expected);
    }

    /// Where an archive is cut, what is whole before it stays.
    #[test]
    fn a_cut_costs_no_member_before_it(
        members in vec((name(), vec(any::<u8>(), 0..1500)), 1..6),
        at in any::<prop::sample::Index>(),
    ) {
        let mut builder = ::tar::Builder::new(Vec::new());
        let mut ends = Vec::new();
        for (name, data) in &members {
            append(&mut builder, Format::Gnu, name, data).unwrap();
            ends.push(builder.get_ref().len() - data.len().next_multiple_of(BLOCK) + data.len());
        }
        let bytes = builder.into_inner().unwrap();
        let cut = BLOCK + at.index(bytes.len() - BLOCK);
        let found = index(&bytes[..cut]).unwrap();
        let whole = found.members.iter().filter(|member| matches!(member.content, Content::Data(_)));
        let names: Vec<&[u8]> = whole.map(|member| &member.name[..]).collect();
        let expected: Vec<&[u8]> =
            members.iter().zip(ends).filter(|(_, end)| *end <= cut).map(|((name, _), _)| name.as_bytes()).collect();
        prop_assert_eq!(names, expected);
    }

    #[test]
    fn pax_records_come_back(records in vec(("[a-zA-Z.]{1,20}", vec(any::<u8>(), 0..200)), 0..6)) {
        let mut bytes = Vec::new();
        for (key, value) in &records {
            let rest = [b" ", key.as_bytes(), b"=", value, b"\n"].concat();
            // The length counts its own digits.
            let length = (1..).map(|digits| rest.len() + digits).find(|length| length.to_string().len() + rest.len() == *length);
            bytes.extend_from_slice(length.unwrap().to_string().as_bytes());
            bytes.extend_from_slice(&rest);
        }
        let expected: Vec<(&[u8], &[u8])> = records.iter().map(|(key, value)| (key.as_bytes(), &value[..])).collect();
        prop_assert_eq!(pax_records(&bytes), expected);
    }
}
