# fedpipe for operators and data owners alike: server/deploy and clients/deploy say what runs.
FROM python:3.11-slim
WORKDIR /opt/fedpipe
COPY requirements/main.txt requirements/
RUN pip install --no-cache-dir --no-deps -r requirements/main.txt
COPY . .
RUN pip install --no-cache-dir --no-deps .
RUN useradd --uid 10001 --create-home fedpipe && install -d -m 700 -o fedpipe /var/lib/fedpipe
USER fedpipe
WORKDIR /var/lib/fedpipe
ENTRYPOINT ["fedpipe"]
