"""The benchmark: `make bench`. What is measured, and how, is in bench/README.md."""
