//! What build.rs lifts from the kernels' sources.

#[allow(dead_code, reason = "a build script is a program of its own; the tests need one function of it")]
#[path = "../../build.rs"]
mod build;

use build::lift;
use flipk::device::cuda::kernels::{attention_d64, layernorm, logits};

#[test]
fn marked_lines_become_constants() {
    let text = "\
// About the launcher.
constexpr int TILE = 128; // launcher
constexpr int THREADS = 256;
constexpr int SHARED = 96 * 1024;  // launcher
WHOLE(64, 0, 32) // launcher
  WHOLE(64, 32, 80) // launcher
";
    let expected = "    /// `SHARED`.\n    pub const SHARED: usize = 98304;\n    /// `TILE`.\n    pub const TILE: usize = 128;\n    \
                    /// Uses of `WHOLE`.\n    pub const WHOLE: [[usize; 3]; 2] = [[64, 0, 32], [64, 32, 80]];\n";
    assert_eq!(lift("kernels/x.cu", text).unwrap(), expected);
    assert_eq!(lift("kernels/x.cu", "constexpr int TILE = 128;\n").unwrap(), "");
}

#[test]
fn what_cannot_be_lifted_fails_with_file_and_line() {
    for (line, what) in [
        ("constexpr int A = B * 2;", "an integer or a product"),
        ("constexpr int A = 2, B = 3;", "an integer or a product"),
        ("constexpr int A = 2 * 9223372036854775807 * 2;", "an integer or a product"),
        ("constexpr int A = -1;", "an integer or a product"),
        ("constexpr int A = 2", "expected `constexpr int NAME"),
        ("constexpr int a = 2;", "capitals"),
        ("constexpr unsigned A = 2;", "expected `constexpr int` or"),
        ("A(1, b)", "integers between"),
        ("A()", "integers between"),
        ("lower(1)", "capitals"),
        ("", "expected `constexpr int` or"),
    ] {
        let error = lift("kernels/x.cu", &format!("\n{line} // launcher\n")).unwrap_err();
        assert!(error.starts_with("kernels/x.cu:2: ") && error.contains(what), "{line}: {error}");
    }
    let twice = |lines: &str| lift("kernels/x.cu", lines).unwrap_err();
    assert!(twice("constexpr int A = 1; // launcher\nconstexpr int A = 2; // launcher").contains(":2: declared twice"));
    assert!(twice("A(1) // launcher\nA(1, 2) // launcher").contains(":2: the line before"));
    assert!(twice("A(1) // launcher\nconstexpr int A = 2; // launcher").contains("A is a number and a macro"));
}

/// The modules are named by their files.
#[test]
fn launchers_see_the_kernels_numbers() {
    assert_eq!((logits::TILE, logits::SHARED), (128, 98_304));
    assert_eq!(attention_d64::WHOLE[0], [64, 0, 32, 2, 8]);
    assert_eq!(layernorm::F32.as_flattened(), [4, 8, 16]);
}
