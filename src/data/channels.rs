//! The images of a source with another number of channels than it has.

use std::sync::Arc;

use crate::data::bad_samples::{BadKind, BadSample, Fault};
use crate::data::pixels::Image;
use crate::data::source::Source;
use crate::error::{Error, Result};

/// The source with images of this number of channels: as they are, or brought to it as by
/// [`Image::in_channels`]. Where that does not go it is an error.
pub fn in_channels(source: Arc<dyn Source>, channels: usize) -> Result<Arc<dyn Source>> {
    match (source.channels(), channels) {
        (from, to) if from == to => Ok(source),
        (3, 1) | (1, 3) => Ok(Arc::new(Converted { source, channels })),
        (from, _) => {
            let fits = match from {
                1 | 3 => "1 or 3".to_string(),
                n => n.to_string(),
            };
            let problem = format!(
                "is {channels}, and the images of {} have {from}; it must be {fits}",
                source.describe()
            );
            Err(Error::config("student.in_chans", problem))
        }
    }
}

/// A source whose images are brought to another number of channels.
struct Converted {
    source: Arc<dyn Source>,
    channels: usize,
}

impl Source for Converted {
    fn len(&self) -> usize {
        self.source.len()
    }
    fn channels(&self) -> usize {
        self.channels
    }
    fn load(&self, i: usize) -> Result<Image, BadSample> {
        let image = self.source.load(i)?;
        let found = image.channels();
        image.in_channels(self.channels).ok_or_else(|| {
            let reason = format!("has {found} channels, not {}", self.source.channels());
            Fault::new(BadKind::Unsupported, reason).of(self.name(i))
        })
    }
    fn label(&self, i: usize) -> Option<u32> {
        self.source.label(i)
    }
    fn classes(&self) -> &[String] {
        self.source.classes()
    }
    fn name(&self, i: usize) -> String {
        self.source.name(i)
    }
    fn describe(&self) -> String {
        self.source.describe()
    }
    fn remarks(&self) -> Vec<String> {
        self.source.remarks()
    }
    fn own_held_out(&self) -> Option<Arc<dyn Source>> {
        let source = self.source.own_held_out()?;
        Some(Arc::new(Self { source, channels: self.channels }))
    }
}
