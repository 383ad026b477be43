//! Which column is what.

use ::parquet::basic::{ConvertedType, LogicalType, Type as Physical};
use ::parquet::schema::types::{ColumnDescriptor, SchemaDescriptor, Type};

use crate::data::format::table;
use crate::data::text::{list_some, shorten};

/// Names of columns with the bytes of images, in order of preference, in upper or lower case.
const IMAGES: [&str; 8] = ["image", "jpg", "jpeg", "png", "webp", "image_bytes", "img", "bytes"];
const CAPTIONS: [&str; 5] = ["caption", "txt", "text", "title", "captions"];
const KEYS: [&str; 4] = ["key", "__key__", "id", "uid"];
const LABELS: [&str; 3] = ["label", "cls", "class"];
/// Columns with addresses of images, in lists of what to download.
const ADDRESSES: [&str; 4] = ["url", "image_url", "img_url", "urls"];

/// What a value is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Kind {
    Bytes,
    Text,
    Bool,
    Int,
    Unsigned,
    Float,
    /// f16.
    Half,
    /// An integer, or one in big-endian bytes, that counts units of ten to the minus this.
    Decimal(u32),
}

/// A column that is read.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Column {
    /// Its number among all columns of the file.
    pub(super) leaf: usize,
    /// With dots if it is within others.
    pub(super) name: String,
    pub(super) kind: Kind,
    /// Whether each row has a list of values.
    pub(super) is_list: bool,
}

impl Column {
    /// Whether it is a field of the row's record.
    pub(super) fn is_field(&self) -> bool {
        self.kind != Kind::Bytes
    }
}

/// The columns that are read, and the places of some in `read`.
#[derive(Debug, Default)]
pub(super) struct Columns {
    pub(super) read: Vec<Column>,
    /// The names of all columns.
    pub(super) names: Vec<String>,
    pub(super) image: Option<usize>,
    pub(super) path: Option<usize>,
    pub(super) caption: Option<usize>,
    pub(super) key: Option<usize>,
    pub(super) label: Option<usize>,
}

impl Columns {
    /// Finds them in the schema of a file.
    ///
    /// # Errors
    /// If there is no column of images.
    pub(super) fn find(schema: &SchemaDescriptor, image_key: Option<&str>) -> Result<Self, String> {
        let mut columns = Self { names: names(schema), ..Self::default() };
        let leaves = schema.columns().iter().enumerate();
        let all: Vec<Column> = leaves.filter_map(|(leaf, of)| column(schema, leaf, of)).collect();
        let (image, path) = images(&all, image_key).ok_or_else(|| no_images(&columns.names, image_key))?;
        let scalar = |kinds: &'static [Kind]| move |column: &Column| !column.is_list && kinds.contains(&column.kind);
        let caption = find(&all, &CAPTIONS, |column| matches!(column.kind, Kind::Text | Kind::Bytes));
        let key = find(&all, &KEYS, scalar(&[Kind::Text, Kind::Bytes, Kind::Int, Kind::Unsigned]));
        let label = find(&all, &LABELS, scalar(&[Kind::Int, Kind::Unsigned]));
        // `image` and `path` may also be named like captions.
        let caption = caption.filter(|caption| Some(*caption) != image && Some(*caption) != path);
        let used = [image, path, caption, key, label];
        let mut places = vec![None; all.len()];
        for (at, column) in all.into_iter().enumerate() {
            if column.is_field() || used.contains(&Some(at)) {
                places[at] = Some(columns.read.len());
                columns.read.push(column);
            }
        }
        let place = |at: Option<usize>| at.and_then(|at| places[at]);
        [columns.image, columns.path, columns.caption, columns.key, columns.label] = used.map(place);
        Ok(columns)
    }

    /// Whether images are files.
    pub(super) fn needs_files(&self) -> bool {
        self.image.is_none()
    }

    /// The name of the column with the images or their paths.
    pub(super) fn image_name(&self) -> &str {
        self.image.or(self.path).map_or("", |at| &self.read[at].name)
    }
}

fn find(all: &[Column], names: &[&str], fits: impl Fn(&Column) -> bool) -> Option<usize> {
    let place = |name: &&str| all.iter().position(|column| column.name.eq_ignore_ascii_case(name) && fits(column));
    names.iter().find_map(place)
}

/// The columns with the bytes of images and with their paths; at least one of them.
fn images(all: &[Column], image_key: Option<&str>) -> Option<(Option<usize>, Option<usize>)> {
    let bytes = |column: &Column| !column.is_list && column.kind == Kind::Bytes;
    let path = |column: &Column| !column.is_list && matches!(column.kind, Kind::Bytes | Kind::Text);
    let with_bytes = |name: &str| {
        if let Some(image) = find(all, &[name], bytes) {
            return Some((Some(image), None));
        }
        // Hugging Face's images are either bytes or paths.
        let image = find(all, &[&format!("{name}.bytes")], bytes)?;
        Some((Some(image), find(all, &[&format!("{name}.path")], path)))
    };
    let with_path = |name: &str| Some((None, Some(find(all, &[name], path)?)));
    match image_key {
        Some(key) => with_bytes(key).or_else(|| with_path(key)),
        None => {
            IMAGES.iter().find_map(|name| with_bytes(name)).or_else(|| table::IMAGES.iter().find_map(|n| with_path(n)))
        }
    }
}

fn no_images(names: &[String], image_key: Option<&str>) -> String {
    let there = list_some(names.iter().map(|name| format!("`{}`", shorten(name))));
    let address = names.iter().find(|name| ADDRESSES.iter().any(|known| name.eq_ignore_ascii_case(known)));
    match (image_key, address) {
        (Some(key), _) => format!("no column `{key}` of bytes or text; it has {there}"),
        (None, Some(address)) => format!(
            "it has addresses of images (`{address}`) and no images; download them first, with img2dataset, whose .tar \
             or .parquet shards have the images"
        ),
        (None, None) => {
            let is_known = |name: &&String| {
                IMAGES.iter().chain(&table::IMAGES).any(|known| {
                    let outer = name.split('.').next().unwrap_or_default();
                    outer.eq_ignore_ascii_case(known)
                })
            };
            let other = names
                .iter()
                .find(is_known)
                .map_or_else(String::new, |name| format!(" (`{}` has values of another type)", shorten(name)));
            format!(
                "no column with images or with paths of images; looked for {} (bytes) and {} (text); it has \
                 {there}{other}. --image-key names another column",
                IMAGES.join(", "),
                table::IMAGES.join(", ")
            )
        }
    }
}

/// The names of all columns, without what is within a list.
fn names(schema: &SchemaDescriptor) -> Vec<String> {
    let mut names: Vec<String> = schema
        .columns()
        .iter()
        .map(|leaf| {
            outer(schema.root_schema(), leaf.path().parts()).map_or_else(|| leaf.path().string(), |found| found.0)
        })
        .collect();
    names.dedup();
    names
}

/// The name of a column up to its list, if it is within one, and how many names are within that. `None` for a map.
fn outer(root: &Type, parts: &[String]) -> Option<(String, usize)> {
    let mut node = root;
    let mut name: Vec<&str> = Vec::new();
    for part in parts {
        node = node.get_fields().iter().find(|child| child.name() == part)?;
        name.push(part);
        let info = node.get_basic_info();
        let of = (info.converted_type(), info.logical_type_ref());
        if matches!(of, (ConvertedType::MAP | ConvertedType::MAP_KEY_VALUE, _) | (_, Some(LogicalType::Map))) {
            return None;
        }
        let is_list = matches!(of, (ConvertedType::LIST, _) | (_, Some(LogicalType::List)));
        if node.is_primitive() || is_list {
            break;
        }
    }
    Some((name.join("."), parts.len() - name.len()))
}

/// A column that can be read: a value for each row, or a list of texts.
fn column(schema: &SchemaDescriptor, leaf: usize, of: &ColumnDescriptor) -> Option<Column> {
    let kind = kind(of)?;
    let (name, within) = outer(schema.root_schema(), of.path().parts())?;
    // A list of structs has more names within.
    let is_list = match (of.max_rep_level(), within) {
        (0, 0) => false,
        (1, 0..=2) if kind == Kind::Text => true,
        _ => return None,
    };
    Some(Column { leaf, name, kind, is_list })
}

fn kind(of: &ColumnDescriptor) -> Option<Kind> {
    let (converted, logical) = (of.converted_type(), of.logical_type_ref());
    let is_unsigned = matches!(logical, Some(LogicalType::Integer(kind)) if !kind.is_signed)
        || matches!(
            converted,
            ConvertedType::UINT_8 | ConvertedType::UINT_16 | ConvertedType::UINT_32 | ConvertedType::UINT_64
        );
    let is_decimal = matches!(logical, Some(LogicalType::Decimal(_))) || converted == ConvertedType::DECIMAL;
    let decimal = || Some(Kind::Decimal(of.type_scale().max(0).unsigned_abs()));
    let is_text = matches!(logical, Some(LogicalType::String | LogicalType::Enum | LogicalType::Json))
        || matches!(converted, ConvertedType::UTF8 | ConvertedType::ENUM | ConvertedType::JSON);
    match of.physical_type() {
        Physical::BOOLEAN => Some(Kind::Bool),
        Physical::INT32 | Physical::INT64 | Physical::BYTE_ARRAY if is_decimal => decimal(),
        Physical::FIXED_LEN_BYTE_ARRAY if is_decimal && (1..=32).contains(&of.type_length()) => decimal(),
        Physical::FIXED_LEN_BYTE_ARRAY if logical == Some(&LogicalType::Float16) && of.type_length() == 2 => {
            Some(Kind::Half)
        }
        Physical::INT32 | Physical::INT64 if is_unsigned => Some(Kind::Unsigned),
        Physical::INT32 | Physical::INT64 => Some(Kind::Int),
        Physical::FLOAT | Physical::DOUBLE => Some(Kind::Float),
        Physical::BYTE_ARRAY if is_text => Some(Kind::Text),
        Physical::BYTE_ARRAY => Some(Kind::Bytes),
        // Old dates, and bytes that are not a number.
        Physical::INT96 | Physical::FIXED_LEN_BYTE_ARRAY => None,
    }
}
