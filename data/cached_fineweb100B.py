"""Fetch the public FineWeb shards of kjj0/fineweb100B-gpt2, as cached_fineweb10B.py does; all are 206 GB."""
import sys
from pathlib import Path

if __name__ == "__main__":  # run as a file, python puts data/ on the path, not the repository
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from data.cached_fineweb10B import DataSet, main

FINEWEB100B = DataSet("kjj0/fineweb100B-gpt2", "fineweb100B", 1030, 1030)

if __name__ == "__main__":
    sys.exit(main(FINEWEB100B))
