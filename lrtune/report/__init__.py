"""A job's report as a file: `evidence.py` fetches what it rests on, `figures.py` draws, `document.py` writes it up."""
