//! A block of a stage, cut to a width.

use crate::autograd::{Tape, Var};
use crate::error::Result;
use crate::models::swin::geometry::Stage;
use crate::models::swin::{NORM_EPS, SwinShape};
use crate::nn::elastic::{InputScale, elastic_linear, elastic_qkv, vector};
use crate::nn::parameters::Parameters;
use crate::ops::layer_norm::layer_norm_padded;
use crate::ops::linear::{LinearWeights, linear, mlp};
use crate::ops::residual::residual;
use crate::ops::row_subset::RowSubset;
use crate::ops::window_attention::window_attention;

/// One block's parameters, sliced to a width.
pub(super) struct Block {
    parameters: Parameters,
    prefix: String,
    width: usize,
    /// Width of a head.
    head_dim: usize,
    /// Hidden width of the MLP.
    hidden: usize,
    /// Whether its windows are shifted.
    shifted: bool,
    /// Of its inputs.
    input_scale: InputScale,
}

impl Block {
    pub fn new(shape: &SwinShape, parameters: &Parameters, stage: usize, block: usize, width: usize) -> Self {
        Self {
            parameters: parameters.clone(),
            prefix: format!("backbone.stages.{stage}.blocks.{block}."),
            width,
            head_dim: shape.head_dim,
            hidden: width * shape.mlp_ratio,
            shifted: shape.shifted[stage][block],
            input_scale: shape.input_scale,
        }
    }

    /// Both branches.
    pub fn forward(
        &self,
        tape: &Tape,
        x: &Var,
        stage: &Stage,
        [attention, mlp]: &[Option<RowSubset>; 2],
    ) -> Result<Var> {
        let x = self.attention_branch(tape, x, stage, attention.as_ref())?;
        self.mlp_branch(tape, &x, stage, mlp.as_ref())
    }

    fn linear(&self, part: &str, out: usize, input: usize) -> Result<LinearWeights> {
        elastic_linear(&self.parameters, &format!("{}{part}", self.prefix), (out, input), self.input_scale)
    }

    /// The normed rows of x, and `zeros` rows of zeros.
    fn norm(&self, tape: &Tape, x: &Var, part: &str, zeros: usize) -> Result<Var> {
        let vector =
            |what: &str| vector(&self.parameters, &format!("{}{part}.norm.{what}", self.prefix), self.width);
        layer_norm_padded(tape, x, &vector("weight")?, &vector("bias")?, NORM_EPS, zeros)
    }

    fn add(&self, tape: &Tape, x: &Var, y: &Var, stage: &Stage, rows: Option<&RowSubset>) -> Result<Var> {
        residual(tape, x, y, &Var::constant(stage.ones.slice(0, 0..self.width)?), rows)
    }

    /// x + attention of the normed x inside windows. Padding is put on after the norm, so its q, k and v are
    /// those of zeros: a row of its own after the others.
    fn attention_branch(&self, tape: &Tape, x: &Var, stage: &Stage, rows: Option<&RowSubset>) -> Result<Var> {
        let windows = &stage.windows[self.shifted as usize];
        let (head_dim, name) = (self.head_dim, format!("{}attn.w_msa", self.prefix));
        let heads = self.width / head_dim;
        let y = self.norm(tape, x, "norm1", windows.is_padded() as usize)?;
        let qkv = format!("{name}.qkv");
        let qkv = elastic_qkv(&self.parameters, &qkv, self.width, 0..3, self.input_scale)?;
        let qkv = linear(tape, &y, &qkv)?;
        let table = self.parameters.var(&format!("{name}.relative_position_bias_table"))?;
        let bias = table.view(|t| t.slice(1, 0..heads))?;
        let y = window_attention(tape, &qkv, &bias, windows, heads, (head_dim as f32).powf(-0.5))?;
        let y = linear(tape, &y, &self.linear("attn.w_msa.proj", self.width, self.width)?)?;
        self.add(tape, x, &y, stage, rows)
    }

    /// x + MLP of the normed x.
    fn mlp_branch(&self, tape: &Tape, x: &Var, stage: &Stage, rows: Option<&RowSubset>) -> Result<Var> {
        let y = self.norm(tape, x, "norm2", 0)?;
        let fc1 = self.linear("ffn.fc1", self.hidden, self.width)?;
        let fc2 = self.linear("ffn.fc2", self.width, self.hidden)?;
        let y = mlp(tape, &y, &fc1, &fc2)?;
        self.add(tape, x, &y, stage, rows)
    }
}
