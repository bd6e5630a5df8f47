//! Parameters of the kernels, as the host hands them over.

use crate::gpu::params;

params!(
    /// 128 bytes, all that may travel with a dispatch.
    MatmulParams {
        m: u32, m_group: u32, a_m: u32, a_m_far: u32, c_m: u32, c_m_far: u32,
        n: u32, n_group: u32, b_n: u32, b_n_far: u32, c_n: u32, c_n_far: u32,
        k: u32, k_groups: u32, a_k: u32, a_k_far: u32, b_k: u32, b_k_far: u32,
        a_offset: u32, b_offset: u32, c_offset: u32,
        a_batch: u32, b_batch: u32, c_batch: u32,
        batches: u32, parts: u32, k_part: u32,
        alpha: f32,
        bias_offset: u32, pre_offset: u32, pre_stride: u32,
    }
);

params!(
    /// See include/matmul.wgsl and include/window.wgsl.
    WindowParams {
        m: u32, n: u32, k: u32, k_groups: u32,
        a_offset: u32, b_offset: u32, c_offset: u32,
        grid_h: u32, grid_w: u32, step: u32, top: i32, left: i32, height: u32, width: u32, taps_x: u32,
        a_image: u32, a_row: u32, a_pixel: u32,
        b_k: u32, b_n: u32, b_tap_y: i32, b_tap_x: i32,
        c_image: u32, c_row: u32, c_m: u32, c_batch: u32,
        batches: u32, parts: u32, k_part: u32,
        alpha: f32,
    }
);
