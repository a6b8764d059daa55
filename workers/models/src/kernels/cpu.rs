//! What the processor at hand can do, found out once at run time, so that one build is fast on all of them.

use std::ops::Deref;
use std::sync::OnceLock;

/// Instructions that kernels may use. There are only those of the processor at hand, and fewer: whoever has one of these may use
/// what it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Features(Instructions);

/// The instructions that kernels choose between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Instructions {
    /// 256-bit vectors of f32 and of whole numbers, with fused products and half precision.
    pub(crate) avx2: bool,
    /// 512-bit vectors of f32.
    pub(crate) avx512: bool,
    /// Dot products of pairs of bf16 in 512-bit vectors.
    pub(crate) avx512_bf16: bool,
    /// Dot products of four bytes in 512-bit vectors.
    pub(crate) avx512_vnni: bool,
    /// Products of bf16 tiles, which the operating system lets this process use.
    pub(crate) amx_bf16: bool,
    /// Products of tiles of bytes, which the operating system lets this process use.
    pub(crate) amx_int8: bool,
}

impl Features {
    /// Of a processor that is only known to be what the build was made for.
    #[cfg(any(test, not(target_arch = "x86_64")))]
    pub(crate) const PORTABLE: Self = Self(Instructions {
        avx2: false,
        avx512: false,
        avx512_bf16: false,
        avx512_vnni: false,
        amx_bf16: false,
        amx_int8: false,
    });

    /// Of the processor at hand.
    pub(crate) fn detected() -> Self {
        static FOUND: OnceLock<Features> = OnceLock::new();
        *FOUND.get_or_init(detect)
    }

    /// Those that kernels tell apart, from none to all of the processor at hand.
    #[cfg(test)]
    pub(crate) fn each() -> Vec<Self> {
        let (Self(none), Self(all)) = (Self::PORTABLE, Self::detected());
        let avx2 = Instructions {
            avx2: all.avx2,
            ..none
        };
        let avx512 = Instructions {
            avx512: all.avx512,
            ..avx2
        };
        let dot_products = Instructions {
            amx_bf16: false,
            amx_int8: false,
            ..all
        };
        let mut each = [none, avx2, avx512, dot_products, all].map(Self).to_vec();
        each.dedup();
        each
    }
}

impl Deref for Features {
    type Target = Instructions;

    fn deref(&self) -> &Instructions {
        &self.0
    }
}

/// The names of what kernels use of the processor at hand.
pub(crate) fn names() -> Vec<&'static str> {
    let found = Features::detected();
    [
        (found.avx2, "AVX2"),
        (found.avx512, "AVX-512"),
        (found.avx512_vnni, "VNNI"),
        (found.avx512_bf16, "AVX512-BF16"),
        (found.amx_bf16, "AMX-BF16"),
        (found.amx_int8, "AMX-INT8"),
    ]
    .into_iter()
    .filter_map(|(is_there, name)| is_there.then_some(name))
    .collect()
}

#[cfg(target_arch = "x86_64")]
fn detect() -> Features {
    let avx2 = is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("fma")
        && is_x86_feature_detected!("f16c");
    let avx512 =
        avx2 && is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw");
    let avx512_bf16 = avx512 && is_x86_feature_detected!("avx512bf16");
    let avx512_vnni = avx512 && is_x86_feature_detected!("avx512vnni");
    let (bf16_tiles, byte_tiles) = tiles();
    Features(Instructions {
        avx2,
        avx512,
        avx512_bf16,
        avx512_vnni,
        amx_bf16: avx512_bf16 && bf16_tiles,
        amx_int8: avx512_vnni && byte_tiles,
    })
}

#[cfg(not(target_arch = "x86_64"))]
fn detect() -> Features {
    Features::PORTABLE
}

/// Whether there are tiles of bf16 and of bytes, after asking Linux for leave to use them: without it the first use ends the
/// process.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
fn tiles() -> (bool, bool) {
    const AMX_BF16: u32 = 1 << 22;
    const AMX_TILE: u32 = 1 << 24;
    const AMX_INT8: u32 = 1 << 25;
    const ARCH_PRCTL: i64 = 158;
    const REQUEST_PERMISSION: u64 = 0x1023;
    const TILE_DATA: u64 = 18;

    let leaves = std::arch::x86_64::__cpuid(0).eax;
    if leaves < 7 {
        return (false, false);
    }
    let found = std::arch::x86_64::__cpuid_count(7, 0).edx;
    if found & AMX_TILE == 0 {
        return (false, false);
    }
    let answer: i64;
    #[expect(
        unsafe_code,
        reason = "a system call that the standard library has not"
    )]
    // SAFETY: arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) reads no memory; the kernel changes rax, rcx and r11.
    unsafe {
        std::arch::asm!(
            "syscall",
            inlateout("rax") ARCH_PRCTL => answer,
            in("rdi") REQUEST_PERMISSION,
            in("rsi") TILE_DATA,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    let allowed = answer == 0;
    (
        allowed && found & AMX_BF16 != 0,
        allowed && found & AMX_INT8 != 0,
    )
}

#[cfg(all(target_arch = "x86_64", not(target_os = "linux")))]
fn tiles() -> (bool, bool) {
    (false, false)
}
