//! How well clusters agree with classes: accuracy under the best one-to-one map, adjusted Rand index, normalised mutual
//! information and Fowlkes-Mallows index, from the numbers of images by class and cluster.

use pathfinding::kuhn_munkres::kuhn_munkres;
use pathfinding::matrix::Matrix;

/// Agreement of clusters with classes; each is 1 where they are the same but for their numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Agreement {
    /// The share of the images whose cluster is mapped to their class by the one-to-one map that makes it largest. With
    /// more clusters than classes some clusters are mapped to none, and the other way round.
    pub accuracy: f64,
    /// Adjusted Rand index, −0.5 to 1: about 0 for random clusters.
    pub ari: f64,
    /// Mutual information over the mean of both entropies, 0 to 1; random clusters have more, the more of them there are.
    pub nmi: f64,
    /// Geometric mean of precision and recall over pairs of images, 0 to 1.
    pub fmi: f64,
}

/// Compares the cluster of every image with its class; both lists are of one length. NaN where they are empty.
pub fn agreement(classes: &[u32], clusters: &[u32]) -> Agreement {
    assert_eq!(classes.len(), clusters.len(), "a class and a cluster for every image");
    if classes.is_empty() {
        return Agreement { accuracy: f64::NAN, ari: f64::NAN, nmi: f64::NAN, fmi: f64::NAN };
    }
    let counts = Counts::new(classes, clusters);
    let matched = counts.matched() as f64 / classes.len() as f64;
    Agreement { accuracy: matched, ari: counts.ari(), nmi: counts.nmi(), fmi: counts.fmi() }
}

/// Images by class (row) and cluster (column), of those that have any.
struct Counts {
    rows: usize,
    cols: usize,
    table: Vec<u64>,
    of_row: Vec<u64>,
    of_col: Vec<u64>,
}

impl Counts {
    fn new(classes: &[u32], clusters: &[u32]) -> Self {
        let (row_of, rows) = numbered(classes);
        let (col_of, cols) = numbered(clusters);
        let (mut table, mut of_row, mut of_col) = (vec![0; rows * cols], vec![0; rows], vec![0; cols]);
        for (class, cluster) in classes.iter().zip(clusters) {
            let (row, col) = (row_of[*class as usize], col_of[*cluster as usize]);
            table[row * cols + col] += 1;
            of_row[row] += 1;
            of_col[col] += 1;
        }
        Self { rows, cols, table, of_row, of_col }
    }

    /// Images whose class and cluster the best one-to-one map pairs, by the Hungarian method (Kuhn and Munkres).
    fn matched(&self) -> i64 {
        let weight = |row: usize, col: usize| self.table[row * self.cols + col] as i64;
        // it gives every row a column
        let weights = match self.rows <= self.cols {
            true => Matrix::from_fn(self.rows, self.cols, |(row, col)| weight(row, col)),
            false => Matrix::from_fn(self.cols, self.rows, |(col, row)| weight(row, col)),
        };
        kuhn_munkres(&weights).0
    }

    fn images(&self) -> f64 {
        self.of_row.iter().sum::<u64>() as f64
    }

    /// Ordered pairs of images that share a class and a cluster, a class, a cluster.
    fn pairs(&self) -> [f64; 3] {
        let pairs = |counts: &[u64]| counts.iter().map(|n| *n as f64 * (*n as f64 - 1.0)).sum();
        [pairs(&self.table), pairs(&self.of_row), pairs(&self.of_col)]
    }

    fn ari(&self) -> f64 {
        let [both, class, cluster] = self.pairs();
        let all = self.images() * (self.images() - 1.0);
        // the same partition twice, or too few images for a pair
        if both == class && both == cluster {
            return 1.0;
        }
        let expected = class / all * cluster;
        (both - expected) / (0.5 * (class + cluster) - expected)
    }

    fn fmi(&self) -> f64 {
        let [both, class, cluster] = self.pairs();
        if both == 0.0 { 0.0 } else { (both / class).sqrt() * (both / cluster).sqrt() }
    }

    fn nmi(&self) -> f64 {
        // one class in one cluster: the same
        if self.rows == 1 && self.cols == 1 {
            return 1.0;
        }
        let images = self.images();
        let entropy = |counts: &[u64]| -> f64 {
            counts.iter().map(|n| *n as f64 / images).map(|share| -share * share.ln()).sum()
        };
        let information: f64 = (0..self.rows)
            .flat_map(|row| (0..self.cols).map(move |col| (row, col)))
            .filter(|(row, col)| self.table[row * self.cols + col] > 0)
            .map(|(row, col)| {
                let count = self.table[row * self.cols + col] as f64;
                let apart = self.of_row[row] as f64 * self.of_col[col] as f64;
                count / images * (count * images / apart).ln()
            })
            .sum();
        (information.max(0.0) / (0.5 * (entropy(&self.of_row) + entropy(&self.of_col)))).min(1.0)
    }
}

/// What each label that occurs is numbered, without gaps, and how many there are.
fn numbered(labels: &[u32]) -> (Vec<usize>, usize) {
    let mut number = vec![usize::MAX; labels.iter().max().map_or(0, |most| *most as usize + 1)];
    labels.iter().for_each(|label| number[*label as usize] = 0);
    let mut count = 0;
    for number in number.iter_mut().filter(|number| **number == 0) {
        *number = count;
        count += 1;
    }
    (number, count)
}
