# devShells: what `cargo xtask verify` and the tests use.
{ pkgs, ... }:
{
  default = pkgs.mkShell {
    packages = with pkgs; [
      cargo
      cargo-nextest
      clippy
      rustc
      rustfmt
      rust-analyzer

      etcd # etcdctl, and the peer of the benchmarks
      openssl

      deadnix
      nixfmt
    ];
  };
}
