//! Cores that never go idle.
//!
//! A core that has nothing to do goes to sleep, and to wake it up takes longer than a statement. A
//! caller who is alone waits for that with every round trip, or not, as the system places its
//! threads: that says nothing of a library. Loops of the lowest priority, which make way for
//! everything else, keep the cores awake.

use std::io::{Read, stdin};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;

use anyhow::{Context, Result};

/// Keeps all cores awake until it is dropped.
pub struct Awake(Vec<Child>);

impl Awake {
    pub fn keep() -> Result<Awake> {
        let this = std::env::current_exe()?;
        let mut awake = Awake(Vec::new());
        for _ in 0..thread::available_parallelism()?.get() {
            let spin = Command::new("chrt")
                .args(["--idle", "0"])
                .arg(&this)
                .arg("spin")
                .stdin(Stdio::piped())
                .spawn()
                .context("chrt, of util-linux")?;
            awake.0.push(spin);
        }
        Ok(awake)
    }
}

impl Drop for Awake {
    fn drop(&mut self) {
        for spin in &mut self.0 {
            drop(spin.stdin.take());
            let _ = spin.wait();
        }
    }
}

/// One of the loops. It ends with its input, so also when whoever started it has been killed.
pub fn spin() -> Result<()> {
    static OVER: AtomicBool = AtomicBool::new(false);
    thread::spawn(|| {
        let _ = stdin().read_to_end(&mut Vec::new());
        OVER.store(true, Relaxed);
    });
    while !OVER.load(Relaxed) {
        std::hint::spin_loop();
    }
    Ok(())
}
