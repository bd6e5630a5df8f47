// The small parameters of a dispatch: immediates where the adapter has them, else a uniform buffer.
// The including shader declares `struct Params` with scalar fields only.
#ifdef IMMEDIATES
var<immediate> p: Params;
#else
@group(1) @binding(0) var<uniform> p: Params;
#endif
