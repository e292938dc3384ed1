//! Makes the binary find libtorch where `LIBTORCH` points, without `LD_LIBRARY_PATH`.

fn main() {
    println!("cargo::rerun-if-env-changed=LIBTORCH");
    if let Ok(path) = std::env::var("LIBTORCH") {
        println!("cargo::rustc-link-arg=-Wl,-rpath,{path}/lib");
    }
}
