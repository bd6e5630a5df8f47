//! What warnings of a run mean, for who has not read how it learns.

/// A text that stands in a warning, and what it means. The warning itself says what to change.
const MEANINGS: [(&str, &str); 15] = [
    (
        "the loss moved by only",
        "The run may have stopped learning. Losses against a moving teacher can also stand still while features get better: \
         the k-NN curve decides.",
    ),
    (
        "the targets are all but uniform",
        "The teacher gives every prototype the same share, so the students are told nothing.",
    ),
    (
        "of what guessing costs",
        "The students do no better than to guess. That is usual right after the start, and a bad sign if it lasts.",
    ),
    (
        "features of all images are nearly the same",
        "The network gives all images one feature (collapse). What is learnt after that is of no use: go back to an earlier \
         checkpoint with the settings changed.",
    ),
    (
        "loss or gradients are not finite",
        "A step was left out. One now and then does no harm; many in a row end the run.",
    ),
    (
        "so much of it stays random",
        "The teacher's average is longer than the run allows: much of it stays what it was at random.",
    ),
    ("the masked-patch loss never counts", "A loss of the recipe begins after the end of the run."),
    ("teacher.teacher_temp is never reached", "A warm-up of the recipe ends after the end of the run."),
    (
        "too few to tell which are alike",
        "Sinkhorn-Knopp shares a batch out among the prototypes, and needs a large one.",
    ),
    ("head_n_prototypes", "The number of prototypes does not fit the images or the width of the head."),
    ("images cannot be used", "Images were replaced by others. The list below says which, and why."),
    (
        "a damaged checkpoint is passed over",
        "A checkpoint did not hold what its manifest says, and an older one was taken.",
    ),
    (
        "was not written, training goes on",
        "The newest state is not on disk. Make room, or the run can lose what it did since.",
    ),
    ("from here on they come in another order", "The data set has changed since the run began."),
    (
        "was removed or replaced while the run was on",
        "Another program has changed the run's folder. What the file held is lost here.",
    ),
];

/// What a warning means, where it is one that is known.
pub fn meaning_of(text: &str) -> Option<&'static str> {
    MEANINGS.iter().find(|(part, _)| text.contains(part)).map(|(_, meaning)| *meaning)
}
