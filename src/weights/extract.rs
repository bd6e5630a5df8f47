//! A sub-network as a plain network (poa-facts: extraction): the slices it uses, α folded into the weights,
//! blocks numbered anew. Which those are is what the backbone says; tensors are read and written one at a
//! time.

use std::collections::HashMap;
use std::path::Path;

use serde_json::Value;

use crate::data::Normalization;
use crate::error::{Error, Result};
use crate::files::tensor_file::TensorFile;
use crate::files::tensor_writer::{TensorSpec, write_tensors_with};
use crate::files::whole::partial_of;
use crate::models::backbone::Backbone;
use crate::models::grid::Network;
use crate::models::plain::{Format, Part, PlainNetwork};
use crate::weights::card;
use crate::weights::describe::describe;
use crate::weights::folder::{write_folder, write_text};
use crate::weights::names::Catalog;
use crate::weights::transformers;

/// File of the tensors in the folder of an extracted network.
pub const MODEL: &str = "model.safetensors";
/// File of the sizes in the folder of an extracted network.
pub const CONFIG: &str = "config.json";

/// A sub-network of a teacher, ready to be written as a plain network.
#[derive(Debug)]
pub struct Extraction<'a> {
    teacher: &'a TensorFile,
    network: Network,
    format: Format,
    plain: PlainNetwork,
    normalization: Normalization,
    /// What the teacher's file calls the sources of the parts.
    sources: HashMap<String, String>,
    classifier: Option<Classifier>,
    card: Option<String>,
}

/// A linear classifier on a network's features.
#[derive(Clone, Debug, PartialEq)]
pub struct Classifier {
    /// `[classes, width]`, row by row.
    pub weight: Vec<f32>,
    /// `[classes]`
    pub bias: Vec<f32>,
    /// The names of the classes.
    pub classes: Vec<String>,
}

impl<'a> Extraction<'a> {
    /// Prepares `network` of the backbone whose tensors `teacher` has; nothing is read yet. A network that
    /// the backbone does not have, one that the format cannot express, and a tensor that is missing or of
    /// another shape are errors.
    pub fn new(
        teacher: &'a TensorFile,
        backbone: &dyn Backbone,
        network: Network,
        format: Format,
    ) -> Result<Self> {
        let plain = backbone.plain(network, format)?;
        let catalog = Catalog::of(teacher.names(), plain.parts.iter().map(|part| part.source.as_str()));
        let mut sources = HashMap::new();
        for part in plain.parts.iter().flat_map(|part| std::iter::once(part).chain(part.plus.as_deref())) {
            let source = catalog.find(&part.source).unwrap_or(&part.source).to_string();
            teacher.expect_shape(&source, &part.source_shape)?;
            sources.insert(part.source.clone(), source);
        }
        let normalization = Normalization::imagenet(plain.channels);
        Ok(Self { teacher, network, format, plain, normalization, sources, classifier: None, card: None })
    }

    /// The same network, trained on images that were normalised so, instead of by
    /// [`Normalization::imagenet`].
    pub fn normalized(self, normalization: Normalization) -> Self {
        Self { normalization, ..self }
    }

    /// The same network with this model card, which is written where there is no `README.md` of someone else's.
    pub fn with_card(self, card: String) -> Self {
        Self { card: Some(card), ..self }
    }

    /// The same network with a classifier on its class token or mean, in the formats of timm, transformers and POA, and in ONNX
    /// models.
    pub fn with_classifier(self, classifier: Classifier) -> Result<Self> {
        match self.head() {
            Some(_) => Ok(Self { classifier: Some(classifier), ..self }),
            None => Err(Error::Usage(format!(
                "the format {} has no classifier; timm, transformers, poa and onnx have",
                self.format
            ))),
        }
    }

    /// The plain network.
    pub fn plain(&self) -> &PlainNetwork {
        &self.plain
    }

    /// Which sub-network it is.
    pub fn network(&self) -> Network {
        self.network
    }

    /// For whom it is.
    pub fn format(&self) -> Format {
        self.format
    }

    /// How its images are normalised.
    pub fn normalization(&self) -> &Normalization {
        &self.normalization
    }

    /// The names of the classes; none without a classifier.
    pub fn classes(&self) -> &[String] {
        self.classifier.as_ref().map_or(&[], |classifier| &classifier.classes)
    }

    /// Whether a class of transformers itself loads it.
    pub fn is_native(&self) -> bool {
        self.format == Format::Transformers && transformers::is_native(&self.plain.config)
    }

    /// What stands before the names of the backbone's tensors.
    fn prefix(&self) -> String {
        match (self.is_native(), &self.classifier) {
            (true, Some(_)) => transformers::prefix(&self.plain.config).unwrap_or_default(),
            _ => String::new(),
        }
    }

    /// What the format calls a classifier.
    pub fn head(&self) -> Option<&str> {
        match self.format {
            Format::Transformers if self.is_native() => Some("classifier"),
            Format::Timm | Format::Transformers => self.plain.config["pretrained_cfg"]["classifier"].as_str(),
            Format::Poa | Format::Onnx => Some("head"),
            Format::Dinov2 => None,
        }
    }

    /// Names and shapes of the classifier's tensors, with their values.
    fn head_tensors(&self) -> Vec<(TensorSpec, Vec<f32>)> {
        let Some((head, classifier)) = self.head().zip(self.classifier.as_ref()) else { return Vec::new() };
        let (classes, mut weight) = (classifier.classes.len(), classifier.weight.clone());
        if self.is_native() {
            weight = transformers::widened(&self.plain.config, &weight, weight.len() / classes.max(1));
        }
        let width = weight.len() / classes.max(1);
        vec![
            (TensorSpec::f32(format!("{head}.weight"), &[classes, width]), weight),
            (TensorSpec::f32(format!("{head}.bias"), &[classes]), classifier.bias.clone()),
        ]
    }

    /// Names and shapes of the plain network's tensors.
    pub fn tensors(&self) -> Vec<TensorSpec> {
        let prefix = self.prefix();
        let named = |part: &Part| TensorSpec::f32(format!("{prefix}{}", part.name), &part.shape);
        let parts = self.plain.parts.iter().map(named);
        parts.chain(self.head_tensors().into_iter().map(|(spec, _)| spec)).collect()
    }

    /// Values, row by row, of the plain network's tensor of this name.
    pub fn read(&self, name: &str) -> Result<Vec<f32>> {
        if let Some((_, values)) = self.head_tensors().into_iter().find(|(spec, _)| spec.name == name) {
            return Ok(values);
        }
        let bare = name.strip_prefix(&self.prefix());
        let part = self.plain.parts.iter().find(|part| Some(&part.name[..]) == bare).ok_or_else(|| {
            Error::Usage(format!("a plain network in the format {} has no tensor `{name}`", self.format))
        })?;
        let mut values = self.cut(part)?;
        if let Some(plus) = &part.plus {
            values.iter_mut().zip(self.cut(plus)?).for_each(|(value, more)| *value += more);
        }
        Ok(values)
    }

    fn cut(&self, part: &Part) -> Result<Vec<f32>> {
        let source = self.sources.get(&part.source).unwrap_or(&part.source);
        Ok(part.cut(&self.teacher.read_f32_as(source, &part.source_shape)?))
    }

    /// Writes `model.safetensors`, `config.json` and what else the format has to the folder `dir`. A folder that is new
    /// appears under its name when all are whole; one that exists keeps what it has until then, and other files in any case.
    pub fn write(&self, dir: &Path) -> Result<()> {
        if self.format == Format::Onnx {
            return Err(Error::Usage("weights::onnx::write_onnx writes the format onnx".into()));
        }
        if self.format == Format::Onnx {
            return Err(Error::Usage("weights::onnx::write_onnx writes the format onnx".into()));
        }
        let texts = self.texts(dir);
        let names: Vec<&str> = std::iter::once(MODEL).chain(texts.iter().map(|(name, _)| *name)).collect();
        // an older network's config must not stand beside this one's tensors
        write_folder(dir, &names, &[CONFIG], |to| {
            write_tensors_with(&partial_of(&to.join(MODEL)), &self.tensors(), &[("format", "pt")], |name| {
                self.read(name)
            })?;
            texts.iter().try_for_each(|(name, text)| write_text(to, name, text))
        })
    }

    /// The card that may be written to a folder, if there is one.
    pub(super) fn card_for(&self, dir: &Path) -> Option<&str> {
        self.card.as_deref().filter(|_| card::may_write(dir))
    }

    /// The files beside the tensors, with what is in them.
    fn texts(&self, dir: &Path) -> Vec<(&'static str, String)> {
        let json = |value: Value| format!("{value:#}\n");
        let about = describe(&self.plain, self.network, self.format, &self.normalization, self.classes());
        let mut texts = vec![(CONFIG, json(about))];
        if self.is_native() {
            let images = transformers::preprocessor(&self.plain, &self.normalization);
            texts.push((transformers::PREPROCESSOR, json(images)));
        }
        texts.extend(self.card_for(dir).map(|text| (card::CARD, text.to_string())));
        texts
    }
}
