-- The last record of the journal whose effects are here.
CREATE TABLE journal (
    applied INTEGER NOT NULL
);
INSERT INTO journal (applied) VALUES (0);
