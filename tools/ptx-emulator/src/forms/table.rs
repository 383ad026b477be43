//! The table, in the order of the PTX ISA (9.0, chapter 9.7).
//!
//! In the ISA's notation: `.a|b` is one of several, `{.a|b}` is optional. Modifiers in brackets have no effect here,
//! since neither caches nor weak memory are modelled: `[.a|b]` is optional, `(.a|b)` is required, and `<.a>` is
//! optional and adds an operand. Words in capitals are abbreviations.

pub(super) const ABBREVIATIONS: &[(&str, &str)] = &[
    ("BITS", "b16|b32|b64"),
    ("INT", "u16|s16|u32|s32|u64|s64"),
    ("LONG", "u32|s32|u64|s64"),
    ("BYTES", "u8|s8|INT"),
    ("DATA", "BITS|INT|f32|f64"),
    ("RND", "rn|rz|rm|rp"),
    ("IRND", "rni|rzi|rmi|rpi"),
    ("ORDER", "eq|ne|lt|le|gt|ge"),
    ("CMP", "ORDER|equ|neu|ltu|leu|gtu|geu|num|nan"),
    ("BOOL", "and|or|xor"),
    ("SHARED", "shared|shared::cta"),
    ("SPACE", "global|local|SHARED"),
    ("PARAM", "param|param::entry|param::func"),
    ("SMALL", "b8|u8|s8|b16|u16|s16"),
    ("WORD", "b32|u32|s32|f32"),
    ("WIDE", "b64|u64|s64|f64"),
    ("SCOPE", "cta|cluster|gpu|sys"),
    ("EVICT1", "L1::evict_normal|L1::evict_unchanged|L1::evict_first|L1::evict_last|L1::no_allocate"),
    ("EVICT2", "L2::evict_normal|L2::evict_first|L2::evict_last"),
    ("FETCH", "L2::64B|L2::128B|L2::256B"),
];

#[rustfmt::skip]
pub(super) const FORMS: &[&str] = &[
    // Integer arithmetic, 9.7.1 and 9.7.2.
    "add|sub.INT", "add|sub.sat.s32", "add|sub.cc.LONG", "addc|subc{.cc}.LONG",
    "mul.lo|hi.INT", "mul.wide.u16|s16|u32|s32", "mul24.lo|hi.u32|s32",
    "mad.lo|hi.INT", "mad.wide.u16|s16|u32|s32", "mad.hi.sat.s32", "mad24.lo|hi.u32|s32",
    "sad|div|rem.INT", "abs|neg.s16|s32|s64", "min|max.INT", "min|max.relu.s32",
    "popc|clz|brev.b32|b64", "bfind{.shiftamt}.LONG", "bfe.LONG", "bfi.b32|b64",
    "dp4a.u32|s32.u32|s32", "dp2a.lo|hi.u32|s32.u32|s32",

    // Floating-point arithmetic, 9.7.3.
    "testp.finite|infinite|number|notanumber|normal|subnormal.f32|f64", "copysign.f32|f64",
    "add|sub|mul{.RND}{.ftz}{.sat}.f32", "add|sub|mul[.rn].f64",
    "fma|mad.RND{.ftz}{.sat}.f32", "fma|mad.rn.f64",
    "div.approx|full|rn{.ftz}.f32", "div.rn.f64",
    "abs|neg{.ftz}.f32", "abs|neg.f64", "min|max{.ftz}{.NaN}.f32", "min|max.f64",
    "rcp|sqrt.approx|rn{.ftz}.f32", "rcp|sqrt.rn.f64", "rsqrt.approx{.ftz}.f32", "rsqrt.approx.f64",
    "sin|cos|lg2|ex2.approx{.ftz}.f32", "tanh.approx.f32",

    // Arithmetic of f16 and bf16, 9.7.4.
    "add|sub|mul[.rn]{.ftz}{.sat}.f16|f16x2", "add|sub|mul[.rn].bf16|bf16x2",
    "fma.rn{.ftz}{.sat}.f16|f16x2", "fma.rn{.ftz}.relu.f16|f16x2", "fma.rn{.relu}.bf16|bf16x2",
    "abs|neg{.ftz}.f16|f16x2", "abs|neg.bf16|bf16x2",
    "min|max{.ftz}{.NaN}.f16|f16x2", "min|max{.NaN}.bf16|bf16x2",
    "tanh.approx.f16|f16x2|bf16|bf16x2", "ex2.approx.f16|f16x2", "ex2.approx.ftz.bf16|bf16x2",

    // Comparisons and selections, 9.7.6 and 9.7.7.
    "set.eq|ne.u32|s32|f32.BITS", "set.ORDER.u32|s32|f32.INT", "set.lo|ls|hi|hs.u32|s32|f32.u16|u32|u64",
    "set.CMP{.ftz}.u32|s32|f32.f32", "set.CMP.u32|s32|f32.f64",
    "set.CMP{.ftz}.u32|s32.f16|f16x2", "set.CMP.u32|s32.bf16|bf16x2",
    "setp.eq|ne{.BOOL}.BITS", "setp.ORDER{.BOOL}.INT", "setp.lo|ls|hi|hs{.BOOL}.u16|u32|u64",
    "setp.CMP{.BOOL}{.ftz}.f32", "setp.CMP{.BOOL}.f64",
    "setp.CMP{.BOOL}{.ftz}.f16", "setp.CMP{.BOOL}.bf16", "setp.CMP{.ftz}.f16x2", "setp.CMP.bf16x2",
    "selp.DATA", "slct.DATA.s32", "slct{.ftz}.DATA.f32",

    // Logic and shifts, 9.7.8.
    "and|or|xor|not.pred|BITS", "cnot.BITS", "shl.BITS", "shr.BITS|INT", "shf.l|r.clamp|wrap.b32", "lop3.b32",
    "prmt.b32{.f4e|b4e|rc8|ecl|ecr|rc16}",

    // Moves, loads and stores, 9.7.9.
    "mov.pred|DATA", "shfl.sync.up|down|bfly|idx.b32",
    "ld[.weak]{.SPACE|const}[.ca|cg|cs|lu|cv][.EVICT1][.EVICT2]<.L2::cache_hint>[.FETCH]{.v2|v4}.SMALL|WORD",
    "ld[.weak]{.SPACE|const}[.ca|cg|cs|lu|cv][.EVICT1][.EVICT2]<.L2::cache_hint>[.FETCH]{.v2}.WIDE",
    "ld.global[.ca|cg|cs](.nc)[.EVICT1][.EVICT2]<.L2::cache_hint>[.FETCH]{.v2|v4}.SMALL|WORD",
    "ld.global[.ca|cg|cs](.nc)[.EVICT1][.EVICT2]<.L2::cache_hint>[.FETCH]{.v2}.WIDE",
    "ld[.weak].global[.nc][.EVICT1][.EVICT2]<.L2::cache_hint>[.FETCH].v8.WORD",
    "ld[.weak].global[.nc][.EVICT1][.EVICT2]<.L2::cache_hint>[.FETCH].v4.WIDE",
    "ld(.volatile){.SPACE}[.FETCH]{.v2|v4}.SMALL|WORD", "ld(.volatile){.SPACE}[.FETCH]{.v2}.WIDE",
    "ld(.relaxed|acquire)(.SCOPE){.global|SHARED}[.EVICT1][.EVICT2]<.L2::cache_hint>[.FETCH]{.v2|v4}.SMALL|WORD",
    "ld(.relaxed|acquire)(.SCOPE){.global|SHARED}[.EVICT1][.EVICT2]<.L2::cache_hint>[.FETCH]{.v2}.WIDE",
    "ld.PARAM{.v2|v4}.SMALL|WORD", "ld.PARAM{.v2}.WIDE",
    "ldu{.global}{.v2|v4}.SMALL|WORD", "ldu{.global}{.v2}.WIDE",
    "st[.weak]{.SPACE}[.wb|cg|cs|wt][.EVICT1][.EVICT2]<.L2::cache_hint>{.v2|v4}.SMALL|WORD",
    "st[.weak]{.SPACE}[.wb|cg|cs|wt][.EVICT1][.EVICT2]<.L2::cache_hint>{.v2}.WIDE",
    "st[.weak].global[.EVICT1][.EVICT2]<.L2::cache_hint>.v8.WORD",
    "st[.weak].global[.EVICT1][.EVICT2]<.L2::cache_hint>.v4.WIDE",
    "st(.volatile){.SPACE}{.v2|v4}.SMALL|WORD", "st(.volatile){.SPACE}{.v2}.WIDE",
    "st(.relaxed|release)(.SCOPE){.global|SHARED}[.EVICT1][.EVICT2]<.L2::cache_hint>{.v2|v4}.SMALL|WORD",
    "st(.relaxed|release)(.SCOPE){.global|SHARED}[.EVICT1][.EVICT2]<.L2::cache_hint>{.v2}.WIDE",
    "st.param|param::func{.v2|v4}.SMALL|WORD", "st.param|param::func{.v2}.WIDE",
    "prefetch[.global|local](.L1|L2)", "prefetch(.global)(.L2::evict_last|L2::evict_normal)", "prefetchu(.L1)",
    "applypriority[.global](.L2::evict_normal)", "discard[.global](.L2)",
    "createpolicy(.fractional)(.EVICT2|L2::evict_unchanged)[.L2::evict_first|L2::evict_unchanged](.b64)",
    "createpolicy(.range)[.global](.EVICT2|L2::evict_unchanged)[.L2::evict_first|L2::evict_unchanged](.b64)",
    "createpolicy(.cvt)(.L2)(.b64)",
    "isspacep.SPACE|param", "cvta{.to}.SPACE|const|param.u64",

    // Conversions, 9.7.9.21.
    "cvt.BYTES.BYTES",
    "cvt.sat.u8.s8|INT", "cvt.sat.s8.u8|INT", "cvt.sat.u16.s8|s16|LONG", "cvt.sat.s16.u16|LONG",
    "cvt.sat.u32.s8|s16|s32|u64|s64", "cvt.sat.s32.u32|u64|s64", "cvt.sat.u64.s8|s16|s32|s64", "cvt.sat.s64.u64",
    "cvt.RND{.sat}.f16|f32|f64.BYTES", "cvt.RND.bf16.INT",
    "cvt.IRND{.ftz}.BYTES.f32", "cvt.IRND.BYTES.f16|f64", "cvt.IRND.INT.bf16",
    "cvt.IRND.f16.f16", "cvt.IRND.bf16.bf16", "cvt.IRND{.ftz}.f32.f32", "cvt.IRND.f64.f64",
    "cvt.sat.f16.f16", "cvt{.ftz}.sat.f32.f32", "cvt.sat.f64.f64",
    "cvt{.ftz}.f32.f16|bf16", "cvt.sat.f32.f16", "cvt{.ftz}.f64.f32", "cvt.sat.f64.f32", "cvt{.sat}.f64.f16", "cvt.f64.bf16",
    "cvt.RND{.ftz}.f16.f32", "cvt.RND.sat.f16.f32", "cvt.RND{.sat}.f16.f64", "cvt.RND{.ftz}.f32.f64", "cvt.RND.sat.f32.f64",
    "cvt.RND{.ftz}.bf16.f32", "cvt.RND.bf16.f16|f64", "cvt.RND.f16.bf16",
    "cvt.rn|rz{.relu}{.satfinite}.f16|bf16|f16x2|bf16x2.f32",
    "cvt.rn|rz.relu.tf32.f32", "cvt.rn|rz|rna{.satfinite}.tf32.f32",

    // Asynchronous copies, 9.7.9.25.
    "cp.async.ca|cg.SHARED.global<.L2::cache_hint>[.FETCH]", "cp.async.commit_group|wait_group|wait_all",

    // Control flow, 9.7.12.
    "bra|ret|call[.uni]", "brx.idx[.uni]", "exit",

    // Synchronisation between threads, 9.7.13.
    "bar[.cta].sync|arrive", "bar[.cta].red.popc.u32", "bar[.cta].red.and|or.pred", "bar.warp.sync",
    "barrier[.cta].sync|arrive[.aligned]", "barrier[.cta].red.popc[.aligned].u32", "barrier[.cta].red.and|or[.aligned].pred",
    "membar(.cta|gl|sys)", "fence[.sc|acq_rel|acquire|release](.SCOPE)", "fence(.proxy)(.alias|async)",
    "fence(.proxy)(.async)(.global|SHARED)",
    "atom|red[.relaxed|acquire|release|acq_rel][.SCOPE]{.global|SHARED}.and|or|xor<.L2::cache_hint>.b32|b64",
    "atom[.relaxed|acquire|release|acq_rel][.SCOPE]{.global|SHARED}.exch<.L2::cache_hint>.b32|b64",
    "atom[.relaxed|acquire|release|acq_rel][.SCOPE]{.global|SHARED}.cas<.L2::cache_hint>.BITS",
    "atom|red[.relaxed|acquire|release|acq_rel][.SCOPE]{.global|SHARED}.add<.L2::cache_hint>.u32|s32|u64|f32|f64",
    "atom|red[.relaxed|acquire|release|acq_rel][.SCOPE]{.global|SHARED}.inc|dec<.L2::cache_hint>.u32",
    "atom|red[.relaxed|acquire|release|acq_rel][.SCOPE]{.global|SHARED}.min|max<.L2::cache_hint>.LONG",
    "atom|red[.relaxed|acquire|release|acq_rel][.SCOPE]{.global|SHARED}.add<.L2::cache_hint>(.noftz).f16|f16x2|bf16|bf16x2",
    "vote.sync.all|any|uni.pred", "vote.sync.ballot.b32", "match.any|all.sync.b32|b64", "activemask.b32",
    "redux.sync.add|min|max.u32|s32", "redux.sync.and|or|xor.b32", "elect.sync", "griddepcontrol(.launch_dependents|wait)",

    // Matrices, 9.7.14.
    "ldmatrix|stmatrix(.sync)(.aligned)(.m8n8).x1|x2|x4{.trans}{.SHARED}.b16",
    "mma(.sync)(.aligned).m16n8k8|m16n8k16(.row)(.col).f32.f16.f16.f32",
    "mma(.sync)(.aligned).m16n8k8|m16n8k16(.row)(.col).f16.f16.f16.f16",
    "mma(.sync)(.aligned).m16n8k8|m16n8k16(.row)(.col).f32.bf16.bf16.f32",
    "mma(.sync)(.aligned).m16n8k4|m16n8k8(.row)(.col).f32.tf32.tf32.f32",

    // 9.7.19.
    "trap|brkpt", "nanosleep(.u32)", "pmevent[.mask]", "setmaxnreg(.inc|dec)(.sync)(.aligned)(.u32)",
];
