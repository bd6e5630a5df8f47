//! A transformer block, cut to a width.

use std::ops::Range;

use crate::autograd::{Tape, Var};
use crate::error::Result;
use crate::models::vit::drop_path::{BranchRows, row_subset};
use crate::models::vit::ffn::Ffn;
use crate::models::vit::sizes::NORM_EPS;
use crate::nn::elastic::{InputScale, elastic_groups, elastic_linear, elastic_qkv, vector};
use crate::nn::parameters::Parameters;
use crate::ops::attention::{SequenceGroup, attention};
use crate::ops::layer_norm::layer_norm;
use crate::ops::linear::{LinearWeights, linear, mlp};
use crate::ops::residual::residual;
use crate::ops::swiglu::swiglu;
use crate::tensor::Tensor;

/// One block's parameters, sliced to a width.
pub(super) struct Block {
    pub parameters: Parameters,
    pub prefix: String,
    pub width: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// What the MLP computes.
    pub ffn: Ffn,
    /// Its hidden width.
    pub hidden: usize,
    /// Of its inputs.
    pub input_scale: InputScale,
}

impl Block {
    /// The first entries of a vector of the block.
    pub fn vector(&self, part: &str) -> Result<Var> {
        vector(&self.parameters, &format!("{}{part}", self.prefix), self.width)
    }

    fn norm(&self, tape: &Tape, x: &Var, part: &str, rows: Option<&BranchRows>) -> Result<Var> {
        let index = match rows {
            Some(BranchRows::Subset(subset, _)) => Some(&subset.rows),
            _ => None,
        };
        self.norm_of(tape, x, part, index)
    }

    /// The norm of some rows, or of all.
    pub fn norm_of(&self, tape: &Tape, x: &Var, part: &str, index: Option<&Tensor>) -> Result<Var> {
        let (weight, bias) =
            (self.vector(&format!("{part}.norm.weight"))?, self.vector(&format!("{part}.norm.bias"))?);
        layer_norm(tape, x, &weight, &bias, NORM_EPS, index)
    }

    /// An elastic linear layer: its first `out` rows and `input` columns.
    pub fn linear(&self, part: &str, out: usize, input: usize) -> Result<LinearWeights> {
        elastic_linear(&self.parameters, &format!("{}{part}", self.prefix), (out, input), self.input_scale)
    }

    /// Some of the q, k and v parts of the qkv layer, the first rows of each.
    pub fn qkv(&self, parts: Range<usize>) -> Result<LinearWeights> {
        elastic_qkv(
            &self.parameters,
            &format!("{}attn.qkv", self.prefix),
            self.width,
            parts,
            self.input_scale,
        )
    }

    /// Number and width of heads.
    pub fn heads(&self) -> [usize; 2] {
        [self.width / self.head_dim, self.head_dim]
    }

    /// The factor of scores.
    pub fn scale(&self) -> f32 {
        (self.head_dim as f32).powf(-0.5)
    }

    /// Both branches.
    pub fn forward(
        &self,
        tape: &Tape,
        x: &Var,
        groups: &[SequenceGroup],
        rows: [Option<&BranchRows>; 2],
    ) -> Result<Var> {
        let x = self.attention_branch(tape, x, groups, rows[0])?;
        self.mlp_branch(tape, &x, rows[1])
    }

    /// Queries, keys and values `[tokens, 3 · width]` of the block's attention over the tokens x.
    pub fn qkv_of(&self, tape: &Tape, x: &Var) -> Result<Tensor> {
        let y = self.norm(tape, x, "norm1", None)?;
        Ok(linear(tape, &y, &self.qkv(0..3)?)?.value().clone())
    }

    /// x + attention of the normed x.
    fn attention_branch(
        &self,
        tape: &Tape,
        x: &Var,
        groups: &[SequenceGroup],
        rows: Option<&BranchRows>,
    ) -> Result<Var> {
        let y = self.norm(tape, x, "norm1", rows)?;
        let qkv = linear(tape, &y, &self.qkv(0..3)?)?;
        let groups = match rows {
            Some(BranchRows::Subset(_, groups)) => groups,
            _ => groups,
        };
        let y = attention(tape, &qkv, groups, self.heads()[0], self.scale())?;
        let y = linear(tape, &y, &self.linear("attn.proj", self.width, self.width)?)?;
        residual(tape, x, &y, &self.vector("ls1.gamma")?, row_subset(rows))
    }

    /// x + MLP of the normed x.
    pub fn mlp_branch(&self, tape: &Tape, x: &Var, rows: Option<&BranchRows>) -> Result<Var> {
        let y = self.norm(tape, x, "norm2", rows)?;
        let [first, second] = self.ffn.layers().map(|layer| format!("mlp.{layer}"));
        let second = self.linear(&second, self.width, self.hidden)?;
        let y = match self.ffn {
            Ffn::Mlp => mlp(tape, &y, &self.linear(&first, self.hidden, self.width)?, &second)?,
            Ffn::SwiGlu => {
                let name = format!("{}{first}", self.prefix);
                let w12 = elastic_groups(
                    &self.parameters,
                    &name,
                    (2, 0..2),
                    (self.hidden, self.width),
                    self.input_scale,
                )?;
                linear(tape, &swiglu(tape, &linear(tape, &y, &w12)?)?, &second)?
            }
        };
        residual(tape, x, &y, &self.vector("ls2.gamma")?, row_subset(rows))
    }
}
