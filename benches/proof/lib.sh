# What the proof's scripts share: programs, and runs that are made once. Sourced from the repository's root.

python=${PYTHON-python3}
# both at once: an example's dependencies have the features of the tests', the program's by itself have not
cargo build --release --locked --quiet --bins --example proof
program=${PROGRAM:-target/release/poa-gpu}
proof=target/release/examples/proof

# once NAME COMMAND..: runs it in folder $out/NAME unless it has ended there; `ended` has the processor's seconds
once() {
    name=$1
    shift
    [ ! -e "$out/$name/ended" ] || return 0
    rm -rf "${out:?}/$name"
    echo "$name" >&2
    ("$@" >"$out/$name.log" 2>&1 && times >"$out/$name.times")
    sed -n '2s/[ms]/ /gp' "$out/$name.times" | awk '{ print $1 * 60 + $2 + $3 * 60 + $4 }' >"$out/$name/ended"
}

# train NAME SETTINGS..: a run of poa-gpu with one thread
train() {
    name=$1
    shift
    once "$name" env RAYON_NUM_THREADS=1 "$program" train --device cpu --out "$out/$name" "$@"
}

# names NAME: the folders of that run for all $seeds, with commas
names() { for seed in $(seq "$seeds"); do printf '%s' "${sep-}$out/$1-$seed"; sep=,; done; unset sep; }
