"""What several recipes share, or one of them needs beside its own file."""
