// The type of activations in memory: half precision where HALF, else single. Arithmetic is in single
// precision.
#ifdef HALF
enable f16;
alias Act = f16;
#else
alias Act = f32;
#endif
