//! What a module must not do although naga lets it pass.

use naga::AddressSpace::{Storage, WorkGroup};
use naga::Statement;

/// A module, and what naga knows of its expressions.
pub struct Validated {
    pub module: naga::Module,
    pub info: naga::valid::ModuleInfo,
}

impl Validated {
    pub fn new(source: &str) -> Self {
        let module = naga::front::wgsl::parse_str(source).unwrap();
        let all = naga::valid::Capabilities::all();
        let info = naga::valid::Validator::new(Default::default(), all).validate(&module).unwrap();
        Self { module, info }
    }

    /// Names of the functions and entry points of which `f` is true.
    fn functions_that(&self, f: impl Fn(&naga::Function, &naga::valid::FunctionInfo) -> bool) -> Vec<String> {
        let functions = self.module.functions.iter().map(|(handle, function)| (function, &self.info[handle]));
        let entries = self.module.entry_points.iter().enumerate();
        let entries = entries.map(|(i, entry)| (&entry.function, self.info.get_entry_point(i)));
        let found = functions.chain(entries).filter(|(function, info)| f(function, info));
        found.map(|(function, _)| function.name.clone().unwrap_or("main".into())).collect()
    }

    /// Names of the functions that write single components of vectors in workgroup or storage memory.
    pub fn component_writes(&self) -> Vec<String> {
        self.functions_that(|function, info| {
            let mut found = false;
            walk(&function.body, &mut |statement| {
                let Statement::Store { pointer, .. } = statement else { return };
                let shared = |space: &naga::AddressSpace| matches!(space, WorkGroup | Storage { .. });
                found |= matches!(
                    info[*pointer].ty.inner_with(&self.module.types),
                    naga::TypeInner::ValuePointer { size: None, space, .. } if shared(space)
                );
            });
            found
        })
    }

    /// Names of the entry points that compute something else than a sum of an invocation's number in its
    /// workgroup: its place in a subgroup, which is not for the shader to say, or a place in a matrix.
    pub fn takes_numbers_apart(&self) -> Vec<String> {
        use naga::BinaryOperator::{And, Divide, ExclusiveOr, Modulo, ShiftRight, Subtract};
        let apart = |entry: &&naga::EntryPoint| {
            let expressions = &entry.function.expressions;
            let number = |at: naga::Handle<naga::Expression>| {
                let naga::Expression::FunctionArgument(i) = expressions[at] else { return false };
                entry.function.arguments[i as usize].binding
                    == Some(naga::Binding::BuiltIn(naga::BuiltIn::LocalInvocationIndex))
            };
            expressions.iter().any(|(_, expression)| {
                matches!(*expression, naga::Expression::Binary {
                    op: And | Divide | ExclusiveOr | Modulo | ShiftRight | Subtract, left, right,
                } if number(left) || number(right))
            })
        };
        self.module.entry_points.iter().filter(apart).map(|entry| entry.name.clone()).collect()
    }

    /// Numbers of 32 bits that an invocation keeps in the variables of its entry point, of small matrices its
    /// share of 32.
    pub fn kept(&self) -> u32 {
        let bytes = |ty: naga::Handle<naga::Type>| {
            let inner = &self.module.types[ty].inner;
            let share = if matches!(inner, naga::TypeInner::CooperativeMatrix { .. }) { 32 } else { 1 };
            inner.size(self.module.to_ctx()) / share
        };
        let locals = self.module.entry_points.iter().flat_map(|entry| entry.function.local_variables.iter());
        locals.map(|(_, local)| bytes(local.ty) / 4).sum()
    }

    /// Names of the functions that call others with arrays of a type of another name, or return such a one.
    pub fn changes_of_type(&self) -> Vec<String> {
        let module = &self.module;
        let array = |ty| matches!(module.types[ty].inner, naga::TypeInner::Array { .. });
        let differs = |function: &naga::Function, info: &naga::valid::FunctionInfo| {
            let differs =
                |value: naga::Handle<naga::Expression>, ty| array(ty) && info[value].ty.handle() != Some(ty);
            let mut found = false;
            walk(&function.body, &mut |statement| match statement {
                Statement::Call { function: called, arguments, .. } => {
                    let wanted = module.functions[*called].arguments.iter();
                    found |= arguments.iter().zip(wanted).any(|(value, wanted)| differs(*value, wanted.ty));
                }
                Statement::Return { value: Some(value) } => {
                    found |= function.result.as_ref().is_some_and(|result| differs(*value, result.ty));
                }
                _ => {}
            });
            found
        };
        self.functions_that(differs)
    }
}

/// Calls `f` with every statement that holds no others.
fn walk(block: &naga::Block, f: &mut impl FnMut(&Statement)) {
    for statement in block {
        match statement {
            Statement::Block(inner) => walk(inner, f),
            Statement::If { accept, reject, .. } => {
                [accept, reject].into_iter().for_each(|inner| walk(inner, f))
            }
            Statement::Switch { cases, .. } => cases.iter().for_each(|case| walk(&case.body, f)),
            Statement::Loop { body, continuing, .. } => {
                [body, continuing].into_iter().for_each(|inner| walk(inner, f));
            }
            _ => f(statement),
        }
    }
}

#[test]
fn writes_of_components_are_found() {
    let shader = |statement: &str| {
        format!(
            "var<workgroup> shared_: array<vec4<f32>, 8>; var<private> own: vec4<f32>; \
             @compute @workgroup_size(8) fn main(@builtin(local_invocation_index) i: u32) {{ {statement} }}"
        )
    };
    let found = |statement: &str| Validated::new(&shader(statement)).component_writes();
    for wrong in ["shared_[i].x = 1.0;", "shared_[i][i % 4u] = 1.0;", "let to = &shared_[i]; (*to).y = 1.0;"]
    {
        assert_eq!(found(wrong), ["main"], "{wrong}");
    }
    for right in ["shared_[i] = vec4(1.0);", "own.x = 1.0;", "var mine = shared_[i]; mine[i % 4u] = 1.0;"] {
        assert!(found(right).is_empty(), "{right}");
    }
}

#[test]
fn numbers_that_are_taken_apart_are_found() {
    let shader = |statement: &str| {
        format!(
            "var<workgroup> shared_: array<u32, 64>; @compute @workgroup_size(64) \
             fn main(@builtin(local_invocation_index) i: u32, @builtin(subgroup_invocation_id) j: u32) {{ \
             {statement} }}"
        )
    };
    let found = |statement: &str| Validated::new(&shader(statement)).takes_numbers_apart();
    for wrong in ["shared_[i / 32u] = j;", "shared_[i - j] = 1u;", "let lane = i & 31u; shared_[lane] = j;"] {
        assert_eq!(found(wrong), ["main"], "{wrong}");
    }
    for right in [
        "shared_[i] = j;",
        "shared_[j % 8u] = i;",
        "for (var k = i; k < 99u; k += 64u) { shared_[k / 2u] = 1u; }",
    ] {
        assert!(found(right).is_empty(), "{right}");
    }
}

#[test]
fn changes_of_type_are_found() {
    let shader = |helper: &str, statement: &str| {
        format!(
            "alias Four = array<u32, 4>; {helper} @compute @workgroup_size(8) fn main() {{ {statement} }}"
        )
    };
    let found = |helper, statement| Validated::new(&shader(helper, statement)).changes_of_type();
    let sum = "fn sum(v: Four) -> u32 { return v[0] + v[1]; }";
    let made = "fn made() -> Four { var v: array<u32, 4>; return v; }";
    assert_eq!(found(sum, "var v: array<u32, 4>; _ = sum(v);"), ["main"]);
    assert_eq!(found(made, ""), ["made"]);
    assert!(found(sum, "var v: Four; _ = sum(v);").is_empty());
}
