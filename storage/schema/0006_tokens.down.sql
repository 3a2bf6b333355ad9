DROP TABLE token_projects;
DROP TABLE access_tokens;
