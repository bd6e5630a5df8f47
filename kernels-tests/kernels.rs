//! Every operation on both devices: outputs, gradients, ragged shapes, strides, offsets, every variant.

#[path = "support/mod.rs"]
mod support;

#[path = "kernels/adamw.rs"]
mod adamw;
#[path = "kernels/attention.rs"]
mod attention;
#[path = "kernels/avg_pool.rs"]
mod avg_pool;
#[path = "kernels/bf16.rs"]
mod bf16;
#[path = "kernels/cast.rs"]
mod cast;
#[path = "kernels/conv.rs"]
mod conv;
#[path = "kernels/cross_entropy.rs"]
mod cross_entropy;
#[path = "kernels/elementwise.rs"]
mod elementwise;
#[path = "kernels/gather.rs"]
mod gather;
#[path = "kernels/group_sum.rs"]
mod group_sum;
#[path = "kernels/half_precision.rs"]
mod half_precision;
#[path = "kernels/koleo.rs"]
mod koleo;
#[path = "kernels/l2_normalize.rs"]
mod l2_normalize;
#[path = "kernels/label_cross_entropy.rs"]
mod label_cross_entropy;
#[path = "kernels/layer_norm.rs"]
mod layer_norm;
#[path = "kernels/linear.rs"]
mod linear;
#[path = "kernels/long.rs"]
mod long;
#[path = "kernels/maps.rs"]
mod maps;
#[path = "kernels/mask_rows.rs"]
mod mask_rows;
#[path = "kernels/matmul.rs"]
mod matmul;
#[path = "kernels/memory.rs"]
mod memory;
#[path = "kernels/patch_embed.rs"]
mod patch_embed;
#[path = "kernels/patch_merge.rs"]
mod patch_merge;
#[path = "kernels/position.rs"]
mod position;
#[path = "kernels/prototype_loss.rs"]
mod prototype_loss;
#[path = "kernels/races.rs"]
mod races;
#[path = "kernels/residual.rs"]
mod residual;
#[path = "kernels/segment_mean.rs"]
mod segment_mean;
#[path = "kernels/segmentation.rs"]
mod segmentation;
#[path = "kernels/sgd.rs"]
mod sgd;
#[path = "kernels/shaders/mod.rs"]
mod shaders;
#[path = "kernels/sinkhorn.rs"]
mod sinkhorn;
#[path = "kernels/soft_cross_entropy.rs"]
mod soft_cross_entropy;
#[path = "kernels/softmax.rs"]
mod softmax;
#[path = "kernels/swiglu.rs"]
mod swiglu;
#[path = "kernels/tokens.rs"]
mod tokens;
#[path = "kernels/top_k.rs"]
mod top_k;
#[path = "kernels/transfers.rs"]
mod transfers;
#[path = "kernels/tune.rs"]
mod tune;
#[path = "kernels/weight_norm.rs"]
mod weight_norm;
#[path = "kernels/window_attention.rs"]
mod window_attention;
