//! A WebAssembly program in its interpreter, `wasmi`.
//!
//! Each program has an engine, a compiled module, a store and an instance of its own. All of that is on the heap and
//! goes when the program drops; the interpreter keeps nothing in statics.

use alloc::string::String;
use core::ops::Range;

use wasmi::{Caller, Config, Engine, Error, Extern, Instance, Linker, Module, Store, StoreLimits, StoreLimitsBuilder};

use crate::heap::{self, Bytes};

/// Calls within calls: more than any right answer takes, and less than the interpreter's own memory for them holds.
const CALL_DEPTH: usize = 4096;

/// What a program may use.
#[derive(Clone, Copy, Debug)]
pub(super) struct Allowance {
    pub(super) memory: Bytes,
    pub(super) fuel: Fuel,
}

/// How long a program may run, or has run: about one for each WebAssembly instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Fuel(pub(super) u64);

/// What the program sees of the kernel, and the kernel of it while it runs.
struct Host {
    limits: StoreLimits,
    told: String,
    /// The most that the whole heap had in use whenever this was looked at.
    peak: Bytes,
}

/// A program that is ready to be asked.
pub(super) struct Program {
    store: Store<Host>,
    instance: Instance,
}

impl Program {
    /// Compiles `module` and makes an instance of it.
    ///
    /// # Errors
    /// The module is malformed, wants what the host does not have, or does not fit into its allowance.
    pub(super) fn load(module: &[u8], allowance: Allowance) -> Result<Self, Error> {
        let mut config = Config::default();
        config.set_max_recursion_depth(CALL_DEPTH).consume_fuel(true);
        let engine = Engine::new(&config);
        let module = Module::new(&engine, module)?;
        let limits = StoreLimitsBuilder::new().memory_size(allowance.memory.0).build();
        let mut store = Store::new(&engine, Host { limits, told: String::new(), peak: heap::used() });
        store.limiter(|host| &mut host.limits);
        store.set_fuel(allowance.fuel.0)?;
        let mut linker = Linker::new(&engine);
        linker.func_wrap("host", "text", text)?;
        let instance = linker.instantiate_and_start(&mut store, &module)?;
        Ok(Self { store, instance })
    }

    /// Calls one of the program's functions that give a number.
    ///
    /// # Errors
    /// There is no such function, or it does not come to its end.
    pub(super) fn ask(&mut self, function: &str, argument: u32) -> Result<i64, Error> {
        let answer = self.instance.get_typed_func(&self.store, function)?.call(&mut self.store, argument);
        self.store.data_mut().look();
        answer
    }

    /// Calls one of the program's functions that tell a text.
    ///
    /// # Errors
    /// There is no such function, or it does not come to its end.
    pub(super) fn listen(&mut self, function: &str, argument: u32) -> Result<String, Error> {
        self.instance.get_typed_func::<u32, ()>(&self.store, function)?.call(&mut self.store, argument)?;
        Ok(core::mem::take(&mut self.store.data_mut().told))
    }

    /// What is left of its allowance.
    pub(super) fn fuel(&self) -> Fuel {
        Fuel(self.store.get_fuel().unwrap_or(0))
    }

    /// The most that the whole heap had in use, seen whenever the program told something or came to an end.
    pub(super) fn peak(&self) -> Bytes {
        self.store.data().peak
    }
}

impl Host {
    fn look(&mut self) {
        self.peak = self.peak.max(heap::used());
    }
}

/// The host's one function: takes a text out of the program's memory.
fn text(mut caller: Caller<'_, Host>, start: u32, len: u32) -> Result<(), Error> {
    let memory = caller.get_export("memory").and_then(Extern::into_memory);
    let memory = memory.ok_or_else(|| Error::new("the program shows no memory"))?;
    let (bytes, host) = memory.data_and_store_mut(&mut caller);
    let text = range(start, len).and_then(|range| bytes.get(range)).and_then(|bytes| str::from_utf8(bytes).ok());
    host.told += text.ok_or_else(|| Error::new("the program tells what is no text in its memory"))?;
    host.look();
    Ok(())
}

fn range(start: u32, len: u32) -> Option<Range<usize>> {
    let start = usize::try_from(start).ok()?;
    Some(start..start.checked_add(usize::try_from(len).ok()?)?)
}
