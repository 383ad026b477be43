//! A graph under construction: nodes in order, and the tensors that they read.

use std::collections::HashMap;

use super::super::super::piece::{Order, Piece};
use super::super::super::{InteropError, NewFolder};
use super::super::{Export, Numbers};
use super::proto::{self, AttributeType, DataType};
use super::weights::{External, tensor};

/// The name of a tensor in the graph.
pub(super) type Value = String;

/// Nodes and initializers, in the order in which they were added.
pub(super) struct Graph<'a> {
    export: &'a Export<'a>,
    folder: &'a NewFolder,
    external: Option<External>,
    numbers: Numbers,
    scope: String,
    /// How often each name was asked for.
    names: HashMap<String, usize>,
    nodes: Vec<proto::Node>,
    initializers: Vec<proto::Tensor>,
}

impl<'a> Graph<'a> {
    /// An empty graph; tensors are f32 until [`Self::cast`]. Large ones go to `external` if it is there.
    pub(super) fn new(export: &'a Export<'a>, folder: &'a NewFolder, external: Option<External>) -> Self {
        Self {
            export,
            folder,
            external,
            numbers: Numbers::F32,
            scope: String::new(),
            names: HashMap::new(),
            nodes: Vec::new(),
            initializers: Vec::new(),
        }
    }

    /// Names of further nodes begin with `scope`.
    pub(super) fn scope(&mut self, scope: impl Into<String>) {
        self.scope = scope.into();
    }

    /// Adds a node with one result, whose name is the node's.
    pub(super) fn node(&mut self, kind: &str, inputs: &[&str], attributes: &[proto::Attribute]) -> Value {
        let wanted = format!("{}/{kind}", self.scope);
        let count = self.names.entry(wanted.clone()).or_default();
        *count += 1;
        let name = if *count == 1 { wanted } else { format!("{wanted}_{count}") };
        self.nodes.push(proto::Node {
            input: inputs.iter().map(|&input| input.to_owned()).collect(),
            output: vec![name.clone()],
            name: name.clone(),
            op_type: kind.to_owned(),
            attribute: attributes.to_vec(),
        });
        name
    }

    /// The parameter `name` in the graph's current dtype; a matrix is transposed, or a patch kernel put in PyTorch's
    /// order, as `order` says.
    pub(super) fn parameter(&mut self, name: &str, order: Order) -> Result<Value, InteropError> {
        let spec = self.export.layout.specs().iter().find(|spec| spec.name == name);
        let spec = spec.ok_or_else(|| InteropError::Parameter {
            name: name.to_owned(),
            problem: "is not a parameter of the model".to_owned(),
        })?;
        let patch = self.export.model.patch_size;
        let shape = match (order, spec.shape.as_slice()) {
            (Order::Transposed, &[outputs, inputs]) => vec![inputs, outputs],
            (Order::ChannelsFirst, &[width, _]) => vec![width, 3, patch, patch],
            (_, shape) => shape.to_vec(),
        };
        let (name, shape, values) =
            self.export.tensor(spec.offset, Piece { name: name.to_owned(), shape, offset: 0, order });
        self.tensor(&name, &shape, &values)
    }

    /// A tensor of numbers in the graph's current dtype.
    pub(super) fn tensor(&mut self, name: &str, shape: &[usize], values: &[f32]) -> Result<Value, InteropError> {
        self.numbers.check(name, values)?;
        let bytes = self.numbers.encode(values);
        let made = tensor(name, shape, self.numbers.data_type(), bytes, self.external.as_mut());
        self.initializers.push(made.map_err(|why| {
            let file = self.external.as_ref().map_or("", |external| external.location());
            self.folder.failed(file, why)
        })?);
        Ok(name.to_owned())
    }

    /// A scalar in the graph's current dtype; equal ones are one tensor.
    pub(super) fn scalar(&mut self, value: f32) -> Value {
        let kind = if self.numbers == Numbers::F16 { "f16" } else { "f32" };
        let bytes = self.numbers.encode(&[value]);
        self.constant(format!("{kind}({value})"), &[], self.numbers.data_type(), bytes)
    }

    /// A list of integers; equal ones are one tensor.
    pub(super) fn ints(&mut self, values: &[i64]) -> Value {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.constant(format!("int64({values:?})"), &[values.len()], DataType::Int64, bytes)
    }

    /// An integer; equal ones are one tensor.
    pub(super) fn int(&mut self, value: i64) -> Value {
        self.constant(format!("int64({value})"), &[], DataType::Int64, value.to_le_bytes().to_vec())
    }

    fn constant(&mut self, name: String, shape: &[usize], data_type: DataType, bytes: Vec<u8>) -> Value {
        if !self.initializers.iter().any(|tensor| tensor.name == name) {
            self.initializers.push(proto::Tensor {
                dims: shape.iter().map(|&extent| extent as i64).collect(),
                data_type: data_type.into(),
                name: name.clone(),
                raw_data: bytes,
                ..proto::Tensor::default()
            });
        }
        name
    }

    /// `x` cast to `numbers`, which is the graph's dtype from here on.
    pub(super) fn cast(&mut self, x: Value, numbers: Numbers) -> Value {
        if self.numbers == numbers {
            return x;
        }
        self.numbers = numbers;
        self.node("Cast", &[&x], &[int("to", numbers.data_type() as i64)])
    }

    /// Sets the graph's dtype before anything is computed.
    pub(super) fn start(&mut self, numbers: Numbers) {
        self.numbers = numbers;
    }

    /// The graph from `input` to `output`, whose value is `result`.
    pub(super) fn finish(
        mut self,
        name: &str,
        input: proto::ValueInfo,
        output: proto::ValueInfo,
        result: &str,
    ) -> Result<proto::Graph, InteropError> {
        if let Some(last) = self.nodes.iter_mut().find(|node| node.output == [result]) {
            last.output = vec![output.name.clone()];
        }
        if let Some(external) = self.external {
            let location = external.location().to_owned();
            external.finish().map_err(|why| self.folder.failed(&location, why))?;
        }
        Ok(proto::Graph {
            node: self.nodes,
            name: name.to_owned(),
            initializer: self.initializers,
            input: vec![input],
            output: vec![output],
        })
    }
}

/// An attribute with an integer.
pub(super) fn int(name: &str, value: i64) -> proto::Attribute {
    let r#type = AttributeType::Int.into();
    proto::Attribute { name: name.to_owned(), r#type, i: Some(value), ..proto::Attribute::default() }
}

/// An attribute with integers.
pub(super) fn ints(name: &str, values: &[i64]) -> proto::Attribute {
    let r#type = AttributeType::Ints.into();
    proto::Attribute { name: name.to_owned(), r#type, ints: values.to_vec(), ..proto::Attribute::default() }
}

/// An attribute with a number.
pub(super) fn float(name: &str, value: f32) -> proto::Attribute {
    let r#type = AttributeType::Float.into();
    proto::Attribute { name: name.to_owned(), r#type, f: Some(value), ..proto::Attribute::default() }
}

/// An input or output, `[batch, ..]` with any batch size.
pub(super) fn batch(name: &str, data_type: DataType, rest: &[usize]) -> proto::ValueInfo {
    let extents = rest.iter().map(|&extent| proto::Extent::Value(extent as i64));
    let extents = std::iter::once(proto::Extent::Param("batch".to_owned())).chain(extents);
    let shape = proto::Shape { dim: extents.map(|value| proto::Dimension { value: Some(value) }).collect() };
    let tensor_type = proto::TensorType { elem_type: data_type.into(), shape: Some(shape) };
    proto::ValueInfo { name: name.to_owned(), r#type: Some(proto::Type { tensor_type: Some(tensor_type) }) }
}

impl Numbers {
    fn data_type(self) -> DataType {
        match self {
            Self::F16 => DataType::Float16,
            // bf16 is refused before a graph is made.
            Self::F32 | Self::Bf16 => DataType::Float,
        }
    }
}
