//! A transformer block, cut to a width.

use crate::autograd::{Tape, Var};
use crate::error::Result;
use crate::models::vit::drop_path::{BranchRows, row_subset};
use crate::models::vit::{NORM_EPS, Vit};
use crate::nn::elastic::{elastic_linear, elastic_qkv, vector};
use crate::nn::parameters::Parameters;
use crate::ops::attention::{SequenceGroup, attention};
use crate::ops::layer_norm::layer_norm;
use crate::ops::linear::{LinearWeights, linear, mlp};
use crate::ops::residual::residual;
use crate::tensor::Tensor;

/// One block's parameters, sliced to a width.
pub(super) struct Block<'a> {
    pub vit: &'a Vit,
    pub parameters: &'a Parameters,
    pub prefix: String,
    pub width: usize,
}

impl Block<'_> {
    fn vector(&self, part: &str) -> Result<Var> {
        vector(self.parameters, &format!("{}{part}", self.prefix), self.width)
    }

    fn norm(&self, tape: &Tape, x: &Var, part: &str, rows: Option<&BranchRows>) -> Result<Var> {
        let index = match rows {
            Some(BranchRows::Subset(subset, _)) => Some(&subset.rows),
            _ => None,
        };
        let (weight, bias) =
            (self.vector(&format!("{part}.norm.weight"))?, self.vector(&format!("{part}.norm.bias"))?);
        layer_norm(tape, x, &weight, &bias, NORM_EPS, index)
    }

    /// An elastic linear layer: its first `out` rows and `input` columns.
    fn linear(&self, part: &str, out: usize, input: usize) -> Result<LinearWeights> {
        elastic_linear(self.parameters, &format!("{}{part}", self.prefix), out, input)
    }

    /// The q, k and v parts of the qkv layer, the first rows of each.
    fn qkv(&self) -> Result<LinearWeights> {
        elastic_qkv(self.parameters, &format!("{}attn.qkv", self.prefix), self.width)
    }

    /// Queries, keys and values `[tokens, 3 · width]` of the block's attention over the tokens x.
    pub fn qkv_of(&self, tape: &Tape, x: &Var) -> Result<Tensor> {
        let y = self.norm(tape, x, "norm1", None)?;
        Ok(linear(tape, &y, &self.qkv()?)?.value().clone())
    }

    /// x + attention of the normed x.
    pub fn attention_branch(
        &self,
        tape: &Tape,
        x: &Var,
        groups: &[SequenceGroup],
        rows: Option<&BranchRows>,
    ) -> Result<Var> {
        let head_dim = self.vit.sizes.head_dim;
        let y = self.norm(tape, x, "norm1", rows)?;
        let qkv = linear(tape, &y, &self.qkv()?)?;
        let groups = match rows {
            Some(BranchRows::Subset(_, groups)) => groups,
            _ => groups,
        };
        let y = attention(tape, &qkv, groups, self.width / head_dim, (head_dim as f32).powf(-0.5))?;
        let y = linear(tape, &y, &self.linear("attn.proj", self.width, self.width)?)?;
        residual(tape, x, &y, &self.vector("ls1.gamma")?, row_subset(rows))
    }

    /// x + MLP of the normed x.
    pub fn mlp_branch(&self, tape: &Tape, x: &Var, rows: Option<&BranchRows>) -> Result<Var> {
        let hidden = self.width * self.vit.sizes.mlp_ratio;
        let y = self.norm(tape, x, "norm2", rows)?;
        let y = mlp(
            tape,
            &y,
            &self.linear("mlp.fc1", hidden, self.width)?,
            &self.linear("mlp.fc2", self.width, hidden)?,
        )?;
        residual(tape, x, &y, &self.vector("ls2.gamma")?, row_subset(rows))
    }
}
