"""How the networks are studied: arms, figures, notebook reports."""
