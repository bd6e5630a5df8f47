//! What a classifier makes of one image.

/// An image's class, and where a classifier has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Its class.
    pub label: u32,
    /// The class that the classifier takes it for: that of the largest logit, of equal ones the first.
    pub first: u32,
    /// How many classes the classifier would rather take than the right one.
    pub before: u32,
}

impl Choice {
    /// Of an image's logits, one a class. Where they are no numbers the right class comes last.
    pub fn of(logits: &[f32], label: u32) -> Self {
        let at = label as usize;
        let own = logits.get(at).copied().unwrap_or(f32::NAN);
        let first = (1..logits.len()).fold(0, |best, i| if logits[i] > logits[best] { i } else { best });
        let ahead = |(i, v): (usize, &f32)| i != at && (own.is_nan() || *v > own || *v == own && i < at);
        let before = logits.iter().enumerate().filter(|pair| ahead(*pair)).count();
        Self { label, first: first as u32, before: before as u32 }
    }

    /// As other ranks get it.
    pub(super) fn bytes(self) -> impl Iterator<Item = u8> {
        [self.label, self.first, self.before].into_iter().flat_map(u32::to_le_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_right_class_has_its_place_among_all() {
        let of = |logits: &[f32], label| {
            let choice = Choice::of(logits, label);
            (choice.first, choice.before)
        };
        assert_eq!(of(&[0.1, 3.0, 2.0], 1), (1, 0));
        assert_eq!(of(&[0.1, 3.0, 2.0], 0), (1, 2));
        assert_eq!(of(&[1.0, 1.0, 1.0], 2), (0, 2), "of equal ones the first comes first");
        assert_eq!(of(&[f32::NAN, f32::NAN], 1), (0, 1), "no number is not right");
    }
}
