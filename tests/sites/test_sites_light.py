import subprocess
import sys


def test_naming_a_site_loads_no_torch_and_no_numpy():
    code = "import sys, digsite.sites; print([m for m in ('torch', 'numpy', 'transformers') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
