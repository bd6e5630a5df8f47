//! The parameters of a network in flat buffers, with named views.
//!
//! Values, gradients, moments and the teacher share one [`FlatLayout`], so the optimiser, the EMA and
//! checkpoints run over whole buffers. A buffer is split only where an adapter cannot bind it.

use std::collections::HashMap;
use std::ops::Range;
use std::rc::Rc;

use rand::{Rng, RngExt};

use crate::autograd::{Arrival, Listener, Listeners, Var};
use crate::error::{Error, Result};
use crate::tensor::{DType, Device, ELEMENT_BYTES, Tensor, convert};

/// Parameters start at multiples of this many elements, so that a block of as many has one parameter.
pub const BLOCK: usize = 64;
/// Top modules start at multiples of this many elements: their gradient norms are summed in such pieces.
pub const NORM_BLOCK: usize = 4096;

/// How a parameter is filled before training.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    /// One value.
    Constant(f32),
    /// Normal with this standard deviation, cut at ±2.
    TruncatedNormal(f32),
    /// Normal with this standard deviation.
    Normal(f32),
    /// Uniform in ± this.
    Uniform(f32),
}

impl Init {
    /// Weights of a linear layer of so many inputs: of this standard deviation, or where that is 0 of 1/√inputs,
    /// with which the outputs are as large as the inputs.
    pub fn linear(std: f64, inputs: usize) -> Self {
        Self::TruncatedNormal(if std > 0.0 { std } else { 1.0 / (inputs as f64).sqrt() } as f32)
    }
}

/// One parameter of a network.
#[derive(Clone, Debug, PartialEq)]
pub struct ParameterSpec {
    /// Official name, as in `backbone.blocks.0.attn.qkv.linear.weight`.
    pub name: String,
    /// Official shape.
    pub shape: Vec<usize>,
    /// Values before training.
    pub init: Init,
}

impl ParameterSpec {
    /// A parameter of this name and shape.
    pub fn new(name: impl Into<String>, shape: &[usize], init: Init) -> Self {
        Self { name: name.into(), shape: shape.to_vec(), init }
    }

    /// The top module: the name up to its first dot.
    pub fn module(&self) -> &str {
        self.name.split('.').next().unwrap_or_default()
    }
}

/// Where a parameter lies.
#[derive(Clone, Debug)]
pub struct Place {
    /// The parameter.
    pub spec: ParameterSpec,
    /// The flat buffer.
    pub buffer: usize,
    /// Elements within it.
    pub range: Range<usize>,
}

/// Where all parameters of a network lie.
#[derive(Debug)]
pub struct FlatLayout {
    places: Vec<Place>,
    by_name: HashMap<String, usize>,
    /// Elements of each buffer, a multiple of [`NORM_BLOCK`].
    buffers: Vec<usize>,
    modules: Vec<String>,
}

impl FlatLayout {
    /// Lays parameters out in order; no buffer exceeds `max_bytes`. Parameters of a module must stand
    /// together.
    pub fn new(specs: &[ParameterSpec], max_bytes: usize) -> Result<Rc<Self>> {
        let limit = (max_bytes / ELEMENT_BYTES).min(1 << 30) / NORM_BLOCK * NORM_BLOCK;
        let (mut places, mut by_name) = (Vec::<Place>::new(), HashMap::new());
        let (mut buffers, mut modules) = (vec![0usize], Vec::<String>::new());
        for spec in specs {
            let elements: usize = spec.shape.iter().product();
            if elements > limit {
                let mib = (elements * ELEMENT_BYTES) >> 20;
                let most = (limit * ELEMENT_BYTES) >> 20;
                let problem = format!("{} takes {mib} MiB, the device binds at most {most} MiB", spec.name);
                return Err(Error::Device(problem));
            }
            let mut start = buffers[buffers.len() - 1].next_multiple_of(BLOCK);
            if modules.last().is_none_or(|m| m != spec.module()) {
                modules.push(spec.module().to_string());
                start = start.next_multiple_of(NORM_BLOCK);
            }
            if start + elements > limit {
                buffers.push(0);
                start = 0;
            }
            let buffer = buffers.len() - 1;
            buffers[buffer] = start + elements;
            by_name.insert(spec.name.clone(), places.len());
            places.push(Place { spec: spec.clone(), buffer, range: start..start + elements });
        }
        buffers.iter_mut().for_each(|n| *n = n.next_multiple_of(NORM_BLOCK).max(NORM_BLOCK));
        Ok(Rc::new(Self { places, by_name, buffers, modules }))
    }

    /// All parameters in order.
    pub fn places(&self) -> &[Place] {
        &self.places
    }

    /// Elements of each buffer, a multiple of [`NORM_BLOCK`].
    pub fn buffers(&self) -> &[usize] {
        &self.buffers
    }

    /// Top modules in order.
    pub fn modules(&self) -> &[String] {
        &self.modules
    }

    /// Number of parameters' elements, without padding.
    pub fn elements(&self) -> usize {
        self.places.iter().map(|p| p.range.len()).sum()
    }

    /// The number of the parameter of this name.
    pub fn index(&self, name: &str) -> Result<usize> {
        self.by_name
            .get(name)
            .copied()
            .ok_or_else(|| Error::shape("parameters", format!("there is no parameter `{name}`")))
    }
}

/// One value a parameter: weights, gradients, moments or the teacher's weights.
#[derive(Clone)]
pub struct FlatBuffers {
    layout: Rc<FlatLayout>,
    buffers: Vec<Tensor>,
}

impl FlatBuffers {
    /// Zeros of single precision.
    pub fn zeros(layout: &Rc<FlatLayout>, device: &Device) -> Result<Self> {
        Self::zeros_of(layout, device, DType::F32)
    }

    fn zeros_of(layout: &Rc<FlatLayout>, device: &Device, dtype: DType) -> Result<Self> {
        let buffers =
            layout.buffers.iter().map(|&n| Tensor::zeros(device, &[n], dtype)).collect::<Result<_>>()?;
        Ok(Self { layout: layout.clone(), buffers })
    }

    /// Zeros for a part of each buffer, of so many elements. Parameters cannot be had from it by name.
    pub(crate) fn zeros_of_sizes(layout: &Rc<FlatLayout>, device: &Device, sizes: &[usize]) -> Result<Self> {
        let zeros = |&n: &usize| Tensor::zeros(device, &[n], DType::F32);
        Ok(Self { layout: layout.clone(), buffers: sizes.iter().map(zeros).collect::<Result<_>>()? })
    }

    /// Values of half precision with the same layout, which [`Self::round_to`] fills.
    pub fn halves(&self) -> Result<Self> {
        Self::zeros_of(&self.layout, self.buffers[0].device(), DType::F16)
    }

    /// Overwrites `halves` with these values in half precision.
    pub fn round_to(&self, halves: &Self) -> Result<()> {
        let mut pairs = halves.buffers.iter().zip(&self.buffers);
        pairs.try_for_each(|(to, from)| convert(to, from, None, false))
    }

    /// Values as the parameters' [`Init`] says.
    pub fn initialised(layout: &Rc<FlatLayout>, device: &Device, rng: &mut impl Rng) -> Result<Self> {
        let all = Self::zeros(layout, device)?;
        if device.is_rehearsal() {
            return Ok(all);
        }
        for place in layout.places() {
            let values = initial_values(place.spec.init, place.range.len(), rng);
            all.tensor(place)?.upload(&values)?;
        }
        Ok(all)
    }

    /// The layout.
    pub fn layout(&self) -> &Rc<FlatLayout> {
        &self.layout
    }

    /// The flat buffers.
    pub fn buffers(&self) -> &[Tensor] {
        &self.buffers
    }

    /// A parameter's values as a vector.
    fn tensor(&self, place: &Place) -> Result<Tensor> {
        self.buffers[place.buffer].slice(0, place.range.clone())
    }

    /// The view of a parameter in its official shape.
    pub fn get(&self, name: &str) -> Result<Tensor> {
        let place = &self.layout.places[self.layout.index(name)?];
        self.tensor(place)?.reshape(&place.spec.shape)
    }

    /// A parameter's values on the host.
    pub fn read(&self, name: &str) -> Result<Vec<f32>> {
        self.get(name)?.to_vec()
    }

    /// Overwrites a parameter with host values.
    pub fn write(&self, name: &str, values: &[f32]) -> Result<()> {
        let place = &self.layout.places[self.layout.index(name)?];
        self.tensor(place)?.upload(values)
    }

    /// Overwrites everything with the values of another set of the same layout.
    pub fn copy_from(&self, other: &Self) -> Result<()> {
        self.buffers.iter().zip(&other.buffers).try_for_each(|(to, from)| crate::tensor::copy(to, from))
    }
}

/// `n` values as `init` says.
pub(crate) fn initial_values(init: Init, n: usize, rng: &mut impl Rng) -> Vec<f32> {
    (0..n)
        .map(|_| match init {
            Init::Constant(v) => v,
            Init::Uniform(bound) => (rng.random::<f32>() * 2.0 - 1.0) * bound,
            Init::Normal(std) => std * normal(rng),
            // the cut is at ±2 in absolute terms, as PyTorch's trunc_normal_ has it
            Init::TruncatedNormal(std) => loop {
                let v = std * normal(rng);
                if v.abs() <= 2.0 {
                    break v;
                }
            },
        })
        .collect()
}

/// A standard normal value (Box-Muller).
fn normal(rng: &mut impl Rng) -> f32 {
    let (u, v): (f64, f64) = (rng.random(), rng.random());
    ((-2.0 * (1.0 - u).ln()).sqrt() * (std::f64::consts::TAU * v).cos()) as f32
}

/// The parameters a forward pass reads, with or without gradients. Cloning is cheap and shares them.
#[derive(Clone)]
pub struct Parameters {
    values: FlatBuffers,
    gradients: Option<FlatBuffers>,
    arrivals: Rc<[Rc<Arrival>]>,
    listeners: Rc<Listeners>,
    /// The values in half precision, where products take those.
    halves: Option<FlatBuffers>,
}

impl Parameters {
    /// Parameters without gradients: the teacher's, or those of an evaluated network.
    pub fn frozen(values: FlatBuffers) -> Self {
        Self { values, gradients: None, arrivals: Rc::new([]), listeners: Rc::default(), halves: None }
    }

    /// Parameters whose gradients are added up in a second set of buffers.
    pub fn trained(values: FlatBuffers) -> Result<Self> {
        let gradients = FlatBuffers::zeros(values.layout(), values.buffers[0].device())?;
        let listeners = Rc::default();
        let places = 0..values.layout.places.len();
        let arrivals = places.map(|place| Rc::new(Arrival::of(place, &listeners))).collect();
        Ok(Self { values, gradients: Some(gradients), arrivals, listeners, halves: None })
    }

    /// The same parameters with products in half precision: [`Self::operand`] gives halves. They are rounded
    /// now, and must be again ([`Self::round`]) when something else than the optimiser changes the values.
    pub fn with_halves(self) -> Result<Self> {
        let all = Self { halves: Some(self.values.halves()?), ..self };
        all.round()?;
        Ok(all)
    }

    /// The values in half precision, where products take those.
    pub fn halves(&self) -> Option<&FlatBuffers> {
        self.halves.as_ref()
    }

    /// Brings the values in half precision up to date, where there are any.
    pub fn round(&self) -> Result<()> {
        self.halves.as_ref().map_or(Ok(()), |halves| self.values.round_to(halves))
    }

    /// The values.
    pub fn values(&self) -> &FlatBuffers {
        &self.values
    }

    /// The gradients, of trained parameters.
    pub fn gradients(&self) -> Option<&FlatBuffers> {
        self.gradients.as_ref()
    }

    /// The parameter of this name, in its official shape.
    pub fn var(&self, name: &str) -> Result<Var> {
        self.with_gradient(name, self.values.get(name)?)
    }

    /// The parameter of this name as an operand of products: in half precision, where they are made in that.
    /// Its gradient is in single precision.
    pub fn operand(&self, name: &str) -> Result<Var> {
        self.with_gradient(name, self.halves.as_ref().unwrap_or(&self.values).get(name)?)
    }

    fn with_gradient(&self, name: &str, value: Tensor) -> Result<Var> {
        match &self.gradients {
            None => Ok(Var::constant(value)),
            Some(g) => {
                let arrival = self.arrivals[self.values.layout.index(name)?].clone();
                Ok(Var::parameter(value, g.get(name)?, arrival))
            }
        }
    }

    /// Tells `listener` when gradients are complete, by the places of the layout; `None` tells nobody.
    pub fn listen(&self, listener: Option<Rc<dyn Listener>>) {
        self.listeners.set(listener);
    }

    /// Whether a gradient arrived at any parameter of each module, in the layout's order, since they were taken.
    pub fn touched_modules(&self) -> Vec<bool> {
        let layout = self.values.layout();
        let touched = |module: &String| {
            let mut own =
                layout.places.iter().zip(&*self.arrivals).filter(|(p, _)| p.spec.module() == module);
            own.any(|(_, arrival)| arrival.touched())
        };
        layout.modules.iter().map(touched).collect()
    }

    /// Notes that a gradient arrived at the modules that `touched` says, in the layout's order: on another rank.
    pub fn touch_modules(&self, touched: &[bool]) {
        let layout = self.values.layout();
        for (place, arrival) in layout.places.iter().zip(&*self.arrivals) {
            let module = layout.modules.iter().position(|module| module == place.spec.module());
            if module.is_some_and(|module| touched[module]) {
                arrival.touch();
            }
        }
    }

    /// Whether each parameter takes part in an update, in the layout's order: where a gradient arrived at any of
    /// its module since the last call. One without counts as zero then, as in official runs (poa-facts
    /// "Parameters without a gradient").
    pub fn take_touched(&self) -> Vec<bool> {
        let (layout, modules) = (self.values.layout(), self.touched_modules());
        for arrival in &*self.arrivals {
            arrival.take();
        }
        let of = |place: &Place| layout.modules.iter().position(|module| module == place.spec.module());
        layout.places.iter().map(|place| of(place).is_some_and(|module| modules[module])).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    fn specs() -> Vec<ParameterSpec> {
        vec![
            ParameterSpec::new("backbone.a", &[3, 5], Init::Constant(2.0)),
            ParameterSpec::new("backbone.b", &[70], Init::TruncatedNormal(0.02)),
            ParameterSpec::new("dino_head.c", &[NORM_BLOCK], Init::Normal(1.0)),
        ]
    }

    #[test]
    fn first_weights_keep_the_size_of_their_inputs_unless_told_otherwise() {
        assert_eq!(Init::linear(0.02, 1024), Init::TruncatedNormal(0.02));
        assert_eq!(Init::linear(0.0, 64), Init::TruncatedNormal(0.125));
    }

    #[test]
    fn blocks_hold_one_parameter_and_norm_blocks_one_module() {
        let layout = FlatLayout::new(&specs(), usize::MAX).unwrap();
        let starts: Vec<_> = layout.places().iter().map(|p| p.range.start).collect();
        assert_eq!(starts, [0, 64, NORM_BLOCK]);
        assert_eq!((layout.modules().len(), layout.elements()), (2, 15 + 70 + NORM_BLOCK));
    }

    #[test]
    fn buffers_are_split_at_the_limit() {
        let layout = FlatLayout::new(&specs(), NORM_BLOCK * ELEMENT_BYTES).unwrap();
        assert_eq!(layout.places()[2].buffer, 1);
        assert!(FlatLayout::new(&specs(), 1024).is_err());
    }

    #[test]
    fn values_follow_their_specification() {
        let device = Device::cpu();
        let layout = FlatLayout::new(&specs(), usize::MAX).unwrap();
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(1);
        let values = FlatBuffers::initialised(&layout, &device, &mut rng).unwrap();
        assert_eq!(values.read("backbone.a").unwrap(), vec![2.0; 15]);
        let c = values.read("dino_head.c").unwrap();
        let n = c.len() as f64;
        let mean = c.iter().map(|v| *v as f64).sum::<f64>() / n;
        let variance = c.iter().map(|v| (*v as f64 - mean).powi(2)).sum::<f64>() / n;
        assert!(mean.abs() < 0.06 && (variance - 1.0).abs() < 0.1, "{mean} {variance}");
        assert!(values.read("backbone.none").unwrap_err().to_string().contains("backbone.none"));
    }
}
