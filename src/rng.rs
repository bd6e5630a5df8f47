//! Random streams by name: what is drawn for one image does not depend on what was drawn for another.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

/// What a stream is for. The numbers are part of what a seed means: never reuse one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Purpose {
    /// The permutation of an epoch: (epoch, 0).
    Order = 1,
    /// The crops of one image: (epoch, index).
    Crops = 2,
    /// The masks of one batch: (its number, rank).
    Masks = 3,
    /// The picture of one generated image: (part, index).
    Shapes = 4,
    /// Stochastic depth of a micro-batch: (step, its number in the step, counted through all ranks).
    DropPath = 5,
    /// The crop of one image in the training of a linear probe: (epoch, index).
    ProbeCrops = 6,
    /// The first weights of a linear probe: (kind of features, learning rate), by their numbers.
    ProbeWeights = 7,
    /// The crop of one image in the training of a classifier: (epoch, index).
    ClassifyCrops = 8,
    /// How the images of one batch of a classifier are mixed: (its number, rank).
    Mixing = 9,
    /// The first centres of k-means: (start, 0).
    Centres = 10,
    /// The crop of one image with its mask: (epoch, index).
    SegmentationCrops = 11,
    /// Dropout of whole channels in a head: (step, number of the micro-batch, counted through all ranks).
    Dropout = 12,
    /// The crops of one image in distillation: (epoch, index).
    DistillCrops = 14,
    /// What a queue of embeddings holds before the first: (queue, 0).
    Queue = 15,
    /// The cells of an image that are covered, in what order: (0, index, or that of the images that share a draw).
    Occlusion = 17,
    /// Where the pieces of a shuffled image go: (rows and columns of pieces, as those of occlusion).
    Shuffle = 18,
    /// The two views of one image that are matched: (0, index).
    MatchedViews = 19,
}

/// The stream of `purpose` numbered (a, b). All four numbers make up the key, so no two streams overlap.
pub fn stream(seed: u64, purpose: Purpose, a: u64, b: u64) -> ChaCha8Rng {
    let mut key = [0; 32];
    for (bytes, word) in key.chunks_exact_mut(8).zip([seed, purpose as u64, a, b]) {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
    ChaCha8Rng::from_seed(key)
}
